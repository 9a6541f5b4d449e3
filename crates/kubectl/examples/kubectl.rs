//! This kubectl as a program of its own: sooner built than the whole binary.

fn main() -> std::process::ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let code = runtime.block_on(kubectl::run(std::env::args_os().skip(1).collect())).unwrap_or(1);
    runtime.shutdown_background();
    code.into()
}
