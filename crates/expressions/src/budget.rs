//! What an expression may cost when it runs, in upstream's units: a name, a field, a call are one, ten characters of a
//! text that is looked through are another one.

use std::cell::Cell;

use cel::ExecutionError;
use cel::common::types::{CelBytes, CelInt, CelList, CelMap, CelOptional, CelString};
use cel::common::value::{CowVal, Val};

use crate::Failure;

/// How much may still be spent; shared by all expressions of a request.
#[derive(Debug)]
pub struct Budget(Cell<u64>);

impl Budget {
    /// Upstream's limit for all rules of a request.
    pub const REQUEST: u64 = 10_000_000;
    /// Upstream's limit for one evaluation.
    pub const CALL: u64 = 1_000_000;

    /// A budget of this many of upstream's cost units.
    pub fn new(most: u64) -> Self {
        Budget(Cell::new(most))
    }
}

thread_local! {
    /// What the expression that runs on this thread may still spend; functions of the language get no state.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// While it lives, what is evaluated on this thread is paid from a budget.
pub(crate) struct Spending<'a> {
    budget: &'a Budget,
    allowed: u64,
}

impl<'a> Spending<'a> {
    pub fn start(budget: &'a Budget) -> Self {
        let allowed = budget.0.get().min(Budget::CALL);
        LEFT.set(Some(allowed));
        Spending { budget, allowed }
    }

    /// Takes what was spent from the budget, and says which limit was too low.
    pub fn end(self) -> Option<Failure> {
        let left = LEFT.replace(None);
        let all = self.budget.0.get();
        self.budget.0.set(all - self.allowed + left.unwrap_or(0));
        match left {
            Some(_) => None,
            None if all > self.allowed => Some(Failure::Call),
            None => Some(Failure::Budget),
        }
    }
}

/// How the size of a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Price {
    Nothing,
    /// A tenth for each element: what looking through it costs.
    Tenth,
    Fifth,
    /// One for each element.
    Each,
    /// One for each item of a list; maps find their members at once.
    Items,
    /// All that is in it.
    Deep,
    /// Every item is compared with every other one, twice.
    Square,
    /// The value itself is a number of items that will be made.
    Number,
    /// What there is to pay beside it is paid for each element.
    Rounds,
}

impl Price {
    const ALL: [Price; 9] = [
        Price::Nothing,
        Price::Tenth,
        Price::Fifth,
        Price::Each,
        Price::Items,
        Price::Deep,
        Price::Square,
        Price::Number,
        Price::Rounds,
    ];

    fn of(self, value: &dyn Val, fixed: u64) -> u64 {
        let beside = match self {
            Price::Nothing => 0,
            Price::Tenth => size(value).div_ceil(10),
            Price::Fifth => size(value).div_ceil(5),
            Price::Each => size(value),
            Price::Items if value.downcast_ref::<CelList>().is_some() => size(value),
            Price::Items => 0,
            Price::Deep => weigh(value),
            Price::Square => size(value).saturating_mul(size(value)).saturating_mul(2),
            Price::Number => value.downcast_ref::<CelInt>().map_or(0, |n| u64::try_from(*n.inner()).unwrap_or(0)),
            Price::Rounds => return size(value).saturating_mul(fixed),
        };
        beside.saturating_add(fixed)
    }
}

/// The elements of a value: characters, bytes, items, members.
fn size(value: &dyn Val) -> u64 {
    if let Some(text) = value.downcast_ref::<CelString>() {
        return text.inner().chars().count() as u64;
    }
    if let Some(bytes) = value.downcast_ref::<CelBytes>() {
        return bytes.inner().len() as u64;
    }
    if let Some(list) = value.downcast_ref::<CelList>() {
        return list.inner().len() as u64;
    }
    if let Some(map) = value.downcast_ref::<CelMap>() {
        return map.inner().len() as u64;
    }
    if let Some(optional) = value.downcast_ref::<CelOptional>() {
        return optional.option().map_or(1, size);
    }
    1
}

/// The price of looking at all that is in a value.
fn weigh(value: &dyn Val) -> u64 {
    if let Some(list) = value.downcast_ref::<CelList>() {
        return 1 + list.inner().iter().map(|v| weigh(v.as_ref())).sum::<u64>();
    }
    if let Some(map) = value.downcast_ref::<CelMap>() {
        return 1 + map.inner().values().map(|v| 1 + weigh(v.as_ref())).sum::<u64>();
    }
    1 + size(value) / 10
}

/// Pays for work that no argument shows.
pub(crate) fn spend(cost: u64) -> Result<(), ExecutionError> {
    let left = LEFT.get().and_then(|left| left.checked_sub(cost));
    LEFT.set(left);
    left.map(|_| ()).ok_or_else(|| ExecutionError::function_error("cost", "actual cost limit exceeded"))
}

/// The function that [`crate::lower`] puts around what costs: pays for its argument, and returns it.
pub(crate) fn pay<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [value, price, fixed] = <[CowVal<'b, 'v>; 3]>::try_from(arguments)
        .map_err(|arguments| ExecutionError::invalid_argument_count(3, arguments.len()))?;
    let number = |of: &CowVal<'_, '_>| of.downcast_ref::<CelInt>().map_or(0, |n| *n.inner());
    let price = usize::try_from(number(&price)).ok().and_then(|at| Price::ALL.get(at)).copied();
    let fixed = u64::try_from(number(&fixed)).unwrap_or(u64::MAX);
    spend(price.unwrap_or(Price::Deep).of(value.as_ref(), fixed))?;
    Ok(value)
}
