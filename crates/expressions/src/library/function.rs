//! What functions of the libraries are made of: their outcome, and types of the language.

use cel::ExecutionError;

pub(crate) type Outcome<T> = Result<T, ExecutionError>;

pub(crate) fn failed<T>(function: &str, why: impl ToString) -> Outcome<T> {
    Err(ExecutionError::function_error(function, why))
}

/// Makes a type of the language from a Rust type that can be compared and copied.
macro_rules! opaque {
    ($name:ident($inner:ty), $constant:ident = $text:literal) => {
        static $constant: cel::common::types::Type = cel::common::types::Type::new_unspecified_type($text);

        #[derive(Debug, Clone, PartialEq)]
        pub(crate) struct $name(pub $inner);

        impl cel::common::value::Val for $name {
            fn get_type(&self) -> &cel::common::types::Type {
                &$constant
            }
            fn cel_type() -> &'static cel::common::types::Type {
                &$constant
            }
            fn equals(&self, other: &dyn cel::common::value::Val) -> bool {
                other.downcast_ref::<$name>().is_some_and(|o| o == self)
            }
            fn clone_as_boxed<'v>(&self) -> Box<dyn cel::common::value::Val + 'v> {
                Box::new(self.clone())
            }
            fn as_any(&self) -> Option<&dyn std::any::Any> {
                Some(self)
            }
        }
        impl cel::common::value::StaticVal for $name {}
    };
}
pub(crate) use opaque;
