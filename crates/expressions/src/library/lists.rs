//! Lists and sets.

use std::cmp::Ordering;

use cel::common::types::{self, CelBool, CelInt, CelList, CelOptional, LIST_TYPE};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env};

use super::function::{Outcome, failed};
use crate::budget;

fn items<'a>(arguments: &'a [CowVal<'_, '_>], at: usize, function: &str) -> Outcome<Vec<&'a dyn Val>> {
    match arguments.get(at).and_then(|a| a.downcast_ref::<CelList>()) {
        Some(list) => Ok(list.inner().iter().map(|v| -> &dyn Val { v.as_ref() }).collect()),
        None => failed(function, "it is for lists"),
    }
}

fn compare(a: &dyn Val, b: &dyn Val) -> Outcome<Ordering> {
    a.as_comparer().map_or_else(|| failed("compare", "items can't be compared"), |c| c.compare(b))
}

fn is_sorted<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    let items = items(&arguments, 0, "isSorted")?;
    for pair in items.windows(2) {
        if compare(pair[0], pair[1])? == Ordering::Greater {
            return Ok(CowVal::owned(CelBool::from(false)));
        }
    }
    Ok(CowVal::owned(CelBool::from(true)))
}

fn extreme<'b, 'v>(arguments: &[CowVal<'b, 'v>], wanted: Ordering, function: &str) -> Outcome<CowVal<'b, 'v>> {
    let Some(list) = arguments.first().and_then(|a| a.downcast_ref::<CelList>()) else {
        return failed(function, "it is for lists");
    };
    let mut best: Option<&Box<dyn Val + '_>> = None;
    for item in list.inner() {
        let better = match best {
            Some(best) => compare(item.as_ref(), best.as_ref())? == wanted,
            None => true,
        };
        best = if better { Some(item) } else { best };
    }
    match best {
        Some(item) => Ok(CowVal::Owned(item.clone())),
        None => failed(function, format!("{function} called on empty list")),
    }
}

fn min<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    extreme(&arguments, Ordering::Less, "min")
}

fn max<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    extreme(&arguments, Ordering::Greater, "max")
}

fn sum<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    let Some(list) = arguments.first().and_then(|a| a.downcast_ref::<CelList>()) else {
        return failed("sum", "it is for lists");
    };
    let Some((first, rest)) = list.inner().split_first() else { return Ok(CowVal::owned(CelInt::from(0))) };
    let mut total: Box<dyn Val + 'v> = first.clone();
    for item in rest {
        let Some(adder) = total.as_adder() else { return failed("sum", "items can't be added") };
        total = adder.add(item.as_ref())?.into_owned();
    }
    Ok(CowVal::Owned(total))
}

fn index_of<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    let at = items(&arguments, 0, "indexOf")?.iter().position(|i| i.equals(arguments[1].as_ref()));
    Ok(CowVal::owned(CelInt::from(at.map_or(-1, |i| i as i64))))
}

fn last_index_of<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    let at = items(&arguments, 0, "lastIndexOf")?.iter().rposition(|i| i.equals(arguments[1].as_ref()));
    Ok(CowVal::owned(CelInt::from(at.map_or(-1, |i| i as i64))))
}

/// Whether a list has an item; whether anything else is the item.
fn includes<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    let [of, item] = arguments.as_slice() else { return failed("includes", "it has one argument") };
    let found = match of.downcast_ref::<CelList>() {
        Some(list) => list.inner().iter().any(|known| known.equals(item.as_ref())),
        None => of.equals(item.as_ref()),
    };
    Ok(CowVal::owned(CelBool::from(found)))
}

fn end_of<'b, 'v>(arguments: &[CowVal<'b, 'v>], function: &str, first: bool) -> Outcome<CowVal<'b, 'v>> {
    let Some(list) = arguments.first().and_then(|a| a.downcast_ref::<CelList>()) else {
        return failed(function, "it is for lists");
    };
    let item = if first { list.inner().first() } else { list.inner().last() };
    Ok(CowVal::owned(item.map_or_else(CelOptional::none, |item| CelOptional::of(item.clone()))))
}

fn first<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    end_of(&arguments, "first", true)
}

fn last<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    end_of(&arguments, "last", false)
}

/// The values that are there.
fn unwrap<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    let Some(list) = arguments.first().and_then(|a| a.downcast_ref::<CelList>()) else {
        return failed("optional.unwrap", "it is for lists");
    };
    let there = list.inner().iter().filter_map(|item| item.downcast_ref::<CelOptional>()?.option());
    let there: Vec<Box<dyn Val + 'v>> = there.map(|value| value.clone_as_boxed()).collect();
    Ok(CowVal::owned(CelList::from(there)))
}

/// Comparing all items with all must be paid for, as no argument shows the product.
fn product(arguments: &[CowVal<'_, '_>], function: &str) -> Outcome<()> {
    let (a, b) = (items(arguments, 0, function)?.len(), items(arguments, 1, function)?.len());
    budget::spend(a as u64 * b as u64)
}

fn all_in(these: &[&dyn Val], those: &[&dyn Val]) -> bool {
    these.iter().all(|a| those.iter().any(|b| a.equals(*b)))
}

fn set_contains<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    product(&arguments, "sets.contains")?;
    let (a, b) = (items(&arguments, 0, "sets.contains")?, items(&arguments, 1, "sets.contains")?);
    Ok(CowVal::owned(CelBool::from(all_in(&b, &a))))
}

fn set_equivalent<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    product(&arguments, "sets.equivalent")?;
    let (a, b) = (items(&arguments, 0, "sets.equivalent")?, items(&arguments, 1, "sets.equivalent")?);
    Ok(CowVal::owned(CelBool::from(all_in(&a, &b) && all_in(&b, &a))))
}

fn set_intersects<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    product(&arguments, "sets.intersects")?;
    let (a, b) = (items(&arguments, 0, "sets.intersects")?, items(&arguments, 1, "sets.intersects")?);
    Ok(CowVal::owned(CelBool::from(a.iter().any(|x| b.iter().any(|y| x.equals(*y))))))
}

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    let list = || LIST_TYPE;
    let any = || types::DYN_TYPE;
    env.add_member_overload("isSorted", "list_is_sorted", list(), vec![], is_sorted)?;
    env.add_member_overload("sum", "list_sum", list(), vec![], sum)?;
    env.add_member_overload("min", "list_min", list(), vec![], min)?;
    env.add_member_overload("max", "list_max", list(), vec![], max)?;
    env.add_member_overload("indexOf", "list_index_of", list(), vec![any()], index_of)?;
    env.add_member_overload("lastIndexOf", "list_last_index_of", list(), vec![any()], last_index_of)?;
    env.add_member_overload("includes", "list_includes", any(), vec![any()], includes)?;
    env.add_member_overload("first", "list_first", list(), vec![], first)?;
    env.add_member_overload("last", "list_last", list(), vec![], last)?;
    env.add_overload("optional.unwrap", "optional_unwrap", vec![list()], unwrap)?;
    env.add_member_overload("unwrapOpt", "optional_unwrap_opt", list(), vec![], unwrap)?;
    env.add_overload("sets.contains", "list_sets_contains", vec![list(), list()], set_contains)?;
    env.add_overload("sets.equivalent", "list_sets_equivalent", vec![list(), list()], set_equivalent)?;
    env.add_overload("sets.intersects", "list_sets_intersects", vec![list(), list()], set_intersects)
}
