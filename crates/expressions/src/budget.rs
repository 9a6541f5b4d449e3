//! What an expression may cost. Costs are counted in values touched: an argument of a function, an item of a list
//! that is gone through, ten bytes of a text.

use std::cell::Cell;

use cel::ExecutionError;
use cel::common::types::{CelBytes, CelList, CelMap, CelString};
use cel::common::value::{CowVal, Val};

/// How much may still be spent; shared by all expressions of a request.
#[derive(Debug)]
pub struct Budget(Cell<u64>);

impl Budget {
    /// Upstream's limit for all rules of a request.
    pub const REQUEST: u64 = 10_000_000;

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
}

impl<'a> Spending<'a> {
    pub fn start(budget: &'a Budget) -> Self {
        LEFT.set(Some(budget.0.get()));
        Spending { budget }
    }

    /// Whether the budget was too small.
    pub fn end(self) -> bool {
        let left = LEFT.replace(None);
        self.budget.0.set(left.unwrap_or(0));
        left.is_none()
    }
}

/// The price of looking at a whole value.
fn weigh(value: &dyn Val) -> u64 {
    if let Some(text) = value.downcast_ref::<CelString>() {
        return 1 + text.inner().len() as u64 / 10;
    }
    if let Some(bytes) = value.downcast_ref::<CelBytes>() {
        return 1 + bytes.inner().len() as u64 / 10;
    }
    if let Some(list) = value.downcast_ref::<CelList>() {
        return 1 + list.inner().iter().map(|v| weigh(v.as_ref())).sum::<u64>();
    }
    if let Some(map) = value.downcast_ref::<CelMap>() {
        return 1 + map.inner().values().map(|v| 1 + weigh(v.as_ref())).sum::<u64>();
    }
    1
}

/// Pays for work that no argument shows.
pub(crate) fn spend(cost: u64) -> Result<(), ExecutionError> {
    let left = LEFT.get().and_then(|left| left.checked_sub(cost));
    LEFT.set(left);
    left.map(|_| ()).ok_or_else(|| ExecutionError::function_error("cost", "actual cost limit exceeded"))
}

/// The function that [`crate::rewrite::charge`] puts around what costs: pays for its argument, and returns it.
pub(crate) fn pay<'b, 'v>(mut arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value = arguments.pop().ok_or_else(|| ExecutionError::invalid_argument_count(1, 0))?;
    spend(weigh(value.as_ref()))?;
    Ok(value)
}
