//! `quantity('1Gi')` and what can be done with it.

use apimachinery::Quantity;
use cel::common::types::{CelBool, CelDouble, CelInt, CelString};
use cel::common::value::Val;
use cel::{DeclarationError, Env, add_member_overload, add_overload};

use super::function::{Outcome, failed, opaque};

opaque!(Amount(Quantity), QUANTITY = "kubernetes.Quantity");

/// An amount as a value of the language.
pub(crate) fn amount(of: Quantity) -> Box<dyn Val> {
    Box::new(Amount(of))
}

fn quantity(text: &CelString<'_>) -> Outcome<Amount> {
    text.inner().parse().map(Amount).or_else(|e| failed("quantity", e))
}

fn is_quantity(text: &CelString<'_>) -> CelBool {
    text.inner().parse::<Quantity>().is_ok().into()
}

fn sign(of: &Amount) -> CelInt {
    CelInt::from(of.0.cmp(&Quantity::ZERO) as i64)
}

fn is_integer(of: &Amount) -> CelBool {
    (Quantity::from_int(of.0.value()) == of.0).into()
}

fn as_integer(of: &Amount) -> Outcome<CelInt> {
    match is_integer(of).inner() {
        true => Ok(CelInt::from(of.0.value())),
        false => failed("asInteger", "cannot convert value to integer"),
    }
}

fn as_approximate_float(of: &Amount) -> CelDouble {
    CelDouble::from(of.0.as_f64())
}

fn add(of: &Amount, other: &Amount) -> Amount {
    Amount(of.0 + other.0)
}

fn add_int(of: &Amount, other: &CelInt) -> Amount {
    Amount(of.0 + Quantity::from_int(*other.inner()))
}

fn sub(of: &Amount, other: &Amount) -> Amount {
    Amount(of.0 - other.0)
}

fn sub_int(of: &Amount, other: &CelInt) -> Amount {
    Amount(of.0 - Quantity::from_int(*other.inner()))
}

fn less(of: &Amount, other: &Amount) -> CelBool {
    (of.0 < other.0).into()
}

fn greater(of: &Amount, other: &Amount) -> CelBool {
    (of.0 > other.0).into()
}

fn compare(of: &Amount, other: &Amount) -> CelInt {
    CelInt::from(of.0.cmp(&other.0) as i64)
}

pub fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_type(QUANTITY.to_owned())?;
    add_overload!(env, fn quantity: (CelString) -> Result<Amount>)?;
    add_overload!(env, fn is_quantity: (CelString) -> CelBool)?;
    add_overload!(env, fn sign: (Amount) -> CelInt)?;
    add_member_overload!(env, fn is_integer: (Amount) -> CelBool)?;
    add_member_overload!(env, fn as_integer: (Amount) -> Result<CelInt>)?;
    add_member_overload!(env, fn as_approximate_float: (Amount) -> CelDouble)?;
    add_member_overload!(env, fn add: (Amount, Amount) -> Amount)?;
    add_member_overload!(env, fn add_int: (Amount, CelInt) -> Amount, name = "add")?;
    add_member_overload!(env, fn sub: (Amount, Amount) -> Amount)?;
    add_member_overload!(env, fn sub_int: (Amount, CelInt) -> Amount, name = "sub")?;
    add_member_overload!(env, fn less: (Amount, Amount) -> CelBool, name = "isLessThan")?;
    add_member_overload!(env, fn greater: (Amount, Amount) -> CelBool, name = "isGreaterThan")?;
    add_member_overload!(env, fn compare: (Amount, Amount) -> CelInt, name = "compareTo")
}
