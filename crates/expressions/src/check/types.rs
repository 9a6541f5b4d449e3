//! Types of expressions, and which may stand where another one is wanted.
//!
//! The rules are those of the language's reference checker: type parameters are solved while arguments are compared,
//! `dyn` goes with everything, and `null` with objects, times, durations and opaque types alone.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::schema::Node;

// CEL calls this type so.
#[allow(clippy::enum_variant_names)]
#[derive(Debug, Clone)]
pub(crate) enum Type<'s> {
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Bytes,
    Text,
    Time,
    Duration,
    List(Arc<Type<'s>>),
    Map(Arc<Type<'s>>, Arc<Type<'s>>),
    Optional(Arc<Type<'s>>),
    /// An object with the properties of a schema.
    Object(Node<'s>),
    /// A type of a library, which has functions and no fields.
    Opaque(&'static str),
    /// The type of a type's name.
    Type,
    /// A type parameter: of a declaration, or one that is still to be solved.
    Param(u32),
}

impl<'s> Type<'s> {
    pub fn list(of: Type<'s>) -> Self {
        Type::List(Arc::new(of))
    }

    pub fn map(key: Type<'s>, value: Type<'s>) -> Self {
        Type::Map(Arc::new(key), Arc::new(value))
    }

    pub fn optional(of: Type<'s>) -> Self {
        Type::Optional(Arc::new(of))
    }

    /// The same type: not merely one that goes with it.
    pub fn is(&self, other: &Type<'s>) -> bool {
        match (self, other) {
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => a.is(b),
            (Type::Map(a, b), Type::Map(c, d)) => a.is(c) && b.is(d),
            (Type::Object(a), Type::Object(b)) => a.is(b),
            (Type::Opaque(a), Type::Opaque(b)) => a == b,
            (Type::Param(a), Type::Param(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    /// A value of this type has one size, which is known.
    pub fn is_scalar(&self) -> bool {
        match self {
            Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Time | Type::Uint => true,
            Type::Optional(of) => of.is_scalar(),
            _ => false,
        }
    }

    fn is_nullable(&self) -> bool {
        matches!(self, Type::Null | Type::Object(_) | Type::Opaque(_) | Type::Optional(_) | Type::Duration | Type::Time)
    }

    /// Whether `other` says the same more exactly.
    fn is_as_general(&self, other: &Type<'s>) -> bool {
        match (self, other) {
            (Type::Dyn | Type::Param(_), _) => true,
            (_, Type::Dyn | Type::Param(_)) => false,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => a.is_as_general(b),
            (Type::Map(a, b), Type::Map(c, d)) => a.is_as_general(c) && b.is_as_general(d),
            (a, b) => a.is(b),
        }
    }
}

impl fmt::Display for Type<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::Dyn | Type::Param(_) => "dyn",
            Type::Null => "null",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::Bytes => "bytes",
            Type::Text => "string",
            Type::Time => "google.protobuf.Timestamp",
            Type::Duration => "google.protobuf.Duration",
            Type::List(of) => return write!(f, "list({of})"),
            Type::Map(key, of) => return write!(f, "map({key}, {of})"),
            Type::Optional(of) => return write!(f, "optional_type({of})"),
            Type::Object(_) => "object",
            Type::Opaque(name) => name,
            Type::Type => "type",
        })
    }
}

/// What type parameters stand for.
#[derive(Debug, Default, Clone)]
pub(crate) struct Solved<'s>(HashMap<u32, Type<'s>>);

impl<'s> Solved<'s> {
    /// A type with its parameters replaced by what they stand for; by `dyn` where that isn't known and `or_dyn` is set.
    pub fn apply(&self, of: &Type<'s>, or_dyn: bool) -> Type<'s> {
        match of {
            Type::Param(param) => match self.0.get(param) {
                Some(known) => self.apply(known, or_dyn),
                None if or_dyn => Type::Dyn,
                None => of.clone(),
            },
            Type::List(of) => Type::list(self.apply(of, or_dyn)),
            Type::Optional(of) => Type::optional(self.apply(of, or_dyn)),
            Type::Map(key, of) => Type::map(self.apply(key, or_dyn), self.apply(of, or_dyn)),
            other => other.clone(),
        }
    }

    /// Whether values of type `is` may stand where `wanted` is; solves parameters on the way, unless the answer is no.
    pub fn assign(&mut self, is: &Type<'s>, wanted: &Type<'s>) -> bool {
        self.assign_all(std::slice::from_ref(is), std::slice::from_ref(wanted))
    }

    pub fn assign_all(&mut self, are: &[Type<'s>], wanted: &[Type<'s>]) -> bool {
        if are.len() != wanted.len() {
            return false;
        }
        let mut attempt = self.clone();
        let fits = are.iter().zip(wanted).all(|(is, wanted)| attempt.fits(is, wanted));
        if fits {
            *self = attempt;
        }
        fits
    }

    fn fits(&mut self, a: &Type<'s>, b: &Type<'s>) -> bool {
        if let Type::Param(param) = b {
            match self.solve(a, *param) {
                Solution::Good => return true,
                Solution::Contradicts => return false,
                Solution::Circular => {}
            }
        }
        if let Type::Param(param) = a {
            return matches!(self.solve(b, *param), Solution::Good);
        }
        match (a, b) {
            (Type::Dyn, _) | (_, Type::Dyn) => true,
            (Type::Null, other) | (other, Type::Null) => other.is_nullable(),
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.fits(a, b),
            (Type::Map(a, b), Type::Map(c, d)) => self.fits(a, c) && self.fits(b, d),
            (a, b) => a.is(b),
        }
    }

    /// Lets a parameter stand for a type, if that goes with what is known of it.
    fn solve(&mut self, of: &Type<'s>, param: u32) -> Solution {
        if matches!(of, Type::Param(same) if *same == param) {
            return Solution::Good;
        }
        if let Some(known) = self.0.get(&param).cloned() {
            if of.is(&known) {
                return Solution::Good;
            }
            if !self.fits(of, &known) {
                return Solution::Contradicts;
            }
            let general = if of.is_as_general(&known) { of.clone() } else { known };
            if self.is_free_of(param, &general) {
                self.0.insert(param, general);
            }
            return Solution::Good;
        }
        if self.is_free_of(param, of) {
            self.0.insert(param, of.clone());
            return Solution::Good;
        }
        Solution::Circular
    }

    fn is_free_of(&self, param: u32, within: &Type<'s>) -> bool {
        match within {
            Type::Param(other) if *other == param => false,
            Type::Param(other) => self.0.get(other).is_none_or(|known| self.is_free_of(param, known)),
            Type::List(of) | Type::Optional(of) => self.is_free_of(param, of),
            Type::Map(key, of) => self.is_free_of(param, key) && self.is_free_of(param, of),
            _ => true,
        }
    }

    /// The more general one of two types that go together; `None` if they don't.
    pub fn join(&mut self, known: Option<Type<'s>>, next: Type<'s>) -> Option<Type<'s>> {
        let Some(known) = known else { return Some(next) };
        self.assign(&known, &next).then(|| if known.is_as_general(&next) { known } else { next })
    }
}

enum Solution {
    Good,
    Contradicts,
    Circular,
}
