//! Where documents are made: on threads that end.
//!
//! A document is made of some 100,000 small values, and what an allocator keeps of a thread's memory it gives back when the thread ends. On the threads
//! that serve requests each of them would keep what its largest document took, for ever.

use apimachinery::Status;
use tokio::sync::oneshot;

/// Makes a document.
///
/// # Errors
/// 500 when there is no thread for it, or it panicked.
pub(super) async fn on_a_thread<T: Send + 'static>(make: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    let (sender, made) = oneshot::channel();
    let thread = tasks::thread("openapi", move || {
        let _ = sender.send(make());
    });
    thread.map_err(|error| Status::internal(format!("no thread to make a document: {error}")))?;
    made.await.map_err(|_| Status::internal("the document can't be made"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_document_has_a_thread_of_its_own_and_a_panic_is_an_error() {
        let here = std::thread::current().id();
        let first = on_a_thread(|| std::thread::current().id()).await.unwrap();
        let second = on_a_thread(|| std::thread::current().id()).await.unwrap();
        assert!(first != here && first != second);
        let panics: Result<(), Status> = on_a_thread(|| panic!("a schema that nobody understands")).await;
        assert_eq!(panics.unwrap_err().code, 500);
        assert!(on_a_thread(|| ()).await.is_ok());
    }
}
