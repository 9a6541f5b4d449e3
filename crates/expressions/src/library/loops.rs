//! Functions that expressions can't name: what [`crate::lower`] makes of loops and prices.

use std::collections::HashMap;

use cel::common::types::{self, CelInt, CelList, CelMap, CelMapKey};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env};

use super::function::{Outcome, failed};
use crate::budget;

/// The function that pays: a value, how its size counts, and what is to be paid beside that.
pub const PAY: &str = "@pay";
/// The pairs of a list's indices and items, or of a map's keys and values.
pub const PAIRS: &str = "@pairs";
/// A map of pairs, and one of maps with an entry each.
pub const MAP_OF_PAIRS: &str = "@mapOfPairs";
pub const MAP_OF_MAPS: &str = "@mapOfMaps";

type Boxed<'v> = Box<dyn Val + 'v>;

fn pairs<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    let Some(of) = arguments.first() else { return failed("comprehension", "it has no range") };
    let pair = |key: Boxed<'v>, value: &Boxed<'v>| -> Boxed<'v> { Box::new(CelList::from(vec![key, value.clone()])) };
    if let Some(list) = of.downcast_ref::<CelList>() {
        let numbered = list.inner().iter().enumerate();
        let all: Vec<Boxed<'v>> = numbered.map(|(i, item)| pair(Box::new(CelInt::from(i as i64)), item)).collect();
        return Ok(CowVal::owned(CelList::from(all)));
    }
    if let Some(map) = of.downcast_ref::<CelMap>() {
        let all: Vec<Boxed<'v>> = map.inner().iter().map(|(key, value)| pair(as_value(key), value)).collect();
        return Ok(CowVal::owned(CelList::from(all)));
    }
    failed("comprehension", format!("a {} can't be gone through", of.get_type().name()))
}

fn as_value<'v>(key: &CelMapKey<'v>) -> Boxed<'v> {
    match key {
        CelMapKey::Bool(key) => Box::new(*key),
        CelMapKey::Int(key) => Box::new(*key),
        CelMapKey::String(key) => Box::new(key.clone()),
        CelMapKey::UInt(key) => Box::new(*key),
    }
}

fn list<'a, 'v>(arguments: &'a [CowVal<'_, 'v>]) -> &'a [Boxed<'v>] {
    arguments.first().and_then(|a| a.downcast_ref::<CelList>()).map_or(&[], |list| list.inner())
}

fn map_of_pairs<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    let mut made = HashMap::new();
    for pair in list(&arguments) {
        let parts = pair.downcast_ref::<CelList>().map_or(&[][..], |pair| pair.inner());
        let [key, value] = parts else { return failed("transformMap", "an entry has a key and a value") };
        insert(&mut made, CelMapKey::try_from(key.clone_as_boxed())?, value)?;
    }
    Ok(CowVal::owned(CelMap::from(made)))
}

fn map_of_maps<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    let mut made = HashMap::new();
    for entries in list(&arguments) {
        let Some(entries) = entries.downcast_ref::<CelMap>() else {
            return failed("transformMapEntry", "an entry is a map");
        };
        for (key, value) in entries.inner() {
            insert(&mut made, key.clone(), value)?;
        }
    }
    Ok(CowVal::owned(CelMap::from(made)))
}

fn insert<'v>(map: &mut HashMap<CelMapKey<'v>, Boxed<'v>>, key: CelMapKey<'v>, value: &Boxed<'v>) -> Outcome<()> {
    let told = format!("insert failed: key {key:?} already exists");
    match map.insert(key, value.clone()) {
        None => Ok(()),
        Some(_) => failed("transformMapEntry", told),
    }
}

pub fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    let any = || types::DYN_TYPE;
    env.add_overload(PAY, "pay", vec![any(), types::INT_TYPE, types::INT_TYPE], budget::pay)?;
    env.add_overload(PAIRS, "pairs", vec![any()], pairs)?;
    env.add_overload(MAP_OF_PAIRS, "map_of_pairs", vec![any()], map_of_pairs)?;
    env.add_overload(MAP_OF_MAPS, "map_of_maps", vec![any()], map_of_maps)
}
