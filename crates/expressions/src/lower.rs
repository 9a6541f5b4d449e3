//! What the evaluation gets instead of what was written.
//!
//! - Prices: [`PAY`] stands around what is looked through, and at places that are evaluated again and again it pays for
//!   everything there that has a fixed price. Prices are upstream's run-time costs, or a little more: of connectives and
//!   conditions that end early, all parts count.
//! - Loops over keys and values become loops over pairs; those that make maps make lists of entries, and a map in the end.
//! - Objects of mutating policies become maps.

use cel::IdedExpr;
use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, ListExpr, LiteralValue, MapEntryExpr, MapExpr,
    operators,
};

use crate::budget::Price;
use crate::check::in_namespace;
use crate::library::loops::{MAP_OF_MAPS, MAP_OF_PAIRS, PAIRS, PAY};
use crate::macros::INSERT;

/// Functions of the language and its extensions that are ours here, as they cost what no argument shows alone.
const OWN: [(&str, &str); 4] =
    [("matches", "@matches"), ("contains", "@contains"), ("join", "@join"), ("replace", "@replace")];

const SELECT: u64 = 1;
const LIST: u64 = 10;
const MAP: u64 = 30;
const OBJECT: u64 = 40;
/// What asking for a right costs.
const CHECK: u64 = 350_000;

/// Makes of an expression what is evaluated.
pub fn lower(tree: &mut IdedExpr) {
    let fixed = visit(tree);
    pay(tree, Price::Nothing, fixed);
}

/// Changes an expression, and returns the fixed price of what is evaluated with it.
fn visit(at: &mut IdedExpr) -> u64 {
    match &mut at.expr {
        Expr::Ident(_) => SELECT,
        Expr::Literal(_) | Expr::Unspecified => 0,
        Expr::Select(select) => visit(&mut select.operand) + u64::from(!select.test),
        Expr::List(list) => LIST + list.elements.iter_mut().map(visit).sum::<u64>(),
        Expr::Map(map) => MAP + map.entries.iter_mut().map(visit_entry).sum::<u64>(),
        Expr::Struct(made) => {
            let fixed = OBJECT + made.entries.iter_mut().map(visit_entry).sum::<u64>();
            let entries = std::mem::take(&mut made.entries).into_iter().map(as_map_entry).collect();
            at.expr = Expr::Map(MapExpr { entries });
            fixed
        }
        Expr::Call(call) => visit_call(call),
        Expr::Comprehension(_) => visit_loop(at),
    }
}

fn visit_entry(entry: &mut IdedEntryExpr) -> u64 {
    match &mut entry.expr {
        EntryExpr::StructField(field) => visit(&mut field.value),
        EntryExpr::MapEntry(entry) => visit(&mut entry.key) + visit(&mut entry.value),
    }
}

fn as_map_entry(entry: IdedEntryExpr) -> IdedEntryExpr {
    let EntryExpr::StructField(field) = entry.expr else { return entry };
    let key = LiteralValue::String(crate::value::unescape(&field.field).into());
    let expr = EntryExpr::MapEntry(MapEntryExpr {
        key: IdedExpr { id: entry.id, expr: Expr::Literal(key) },
        value: field.value,
        optional: field.optional,
    });
    IdedEntryExpr { id: entry.id, expr }
}

fn visit_call(call: &mut CallExpr) -> u64 {
    let namespaced = in_namespace(call);
    let target = match &mut call.target {
        Some(target) if namespaced.is_none() => visit(target),
        _ => 0,
    };
    let mut costs = call.args.iter_mut().map(visit);
    if call.func_name == operators::CONDITIONAL {
        let condition = costs.next().unwrap_or(0);
        return condition + costs.max().unwrap_or(0);
    }
    let fixed = target + costs.sum::<u64>();
    let name = namespaced.unwrap_or_else(|| call.func_name.clone());
    fixed + own_price(call, &name)
}

/// Puts what a call's size counts to its parts, and returns what it costs beside that.
fn own_price(call: &mut CallExpr, name: &str) -> u64 {
    let is_member = call.target.is_some() && !name.contains('.');
    match name {
        operators::LOGICAL_AND | operators::LOGICAL_OR => 0,
        operators::EQUALS
        | operators::NOT_EQUALS
        | operators::LESS
        | operators::LESS_EQUALS
        | operators::GREATER
        | operators::GREATER_EQUALS => compared(call),
        operators::ADD => {
            call.args.iter_mut().for_each(|argument| pay(argument, Price::Tenth, 0));
            1
        }
        operators::IN => {
            if let Some(list) = call.args.get_mut(1) {
                pay(list, Price::Items, 0);
            }
            1
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => {
            of_first(call, is_member, Price::Deep)
        }
        "sort" | "distinct" => of_first(call, is_member, Price::Square),
        "@sortByAssociatedKeys" => of_argument(call, Price::Square),
        "slice" | "reverse" | "flatten" => of_first(call, is_member, Price::Each) + LIST,
        "lists.range" => of_argument(call, Price::Number) + LIST,
        "split" => of_first(call, is_member, Price::Fifth),
        "format" if is_member => {
            of_argument(call, Price::Deep);
            of_first(call, is_member, Price::Tenth)
        }
        "ip.isCanonical" => of_argument(call, Price::Fifth),
        "startsWith"
        | "endsWith"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "url"
        | "jsonpatch.escapeKey"
        | "strings.quote"
        | "string"
        | "bytes"
        | "cidr"
        | "ip"
        | "isIP"
        | "isCIDR"
        | "containsIP"
        | "containsCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver" => of_first(call, is_member, Price::Tenth),
        "fieldSelector" | "labelSelector" => of_argument(call, Price::Deep) + LIST + OBJECT,
        "check" if is_member => CHECK,
        _ => of_other(call, name),
    }
}

/// Functions that are ours here get their own names.
fn of_other(call: &mut CallExpr, name: &str) -> u64 {
    if let Some((_, own)) = OWN.iter().find(|(known, _)| *known == name) {
        call.func_name = (*own).into();
    }
    1
}

/// The price of a comparison, which ends with the smaller one.
fn compared(call: &mut CallExpr) -> u64 {
    let known = call.args.iter().filter_map(literal_size).min();
    if let (None, Some(first)) = (known, call.args.first_mut()) {
        pay(first, Price::Tenth, 0);
    }
    known.map_or(0, |size| size.div_ceil(10))
}

/// What a function is called on, or its first argument.
fn of_first(call: &mut CallExpr, is_member: bool, price: Price) -> u64 {
    match call.target.as_deref_mut().filter(|_| is_member) {
        Some(target) => {
            pay(target, price, 0);
            1
        }
        None => of_argument(call, price),
    }
}

fn of_argument(call: &mut CallExpr, price: Price) -> u64 {
    if let Some(argument) = call.args.first_mut() {
        pay(argument, price, 0);
    }
    1
}

fn literal_size(of: &IdedExpr) -> Option<u64> {
    match &of.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner().chars().count() as u64),
        Expr::Literal(LiteralValue::Bytes(bytes)) => Some(bytes.inner().len() as u64),
        Expr::Literal(_) => Some(1),
        _ => None,
    }
}

/// Puts [`PAY`] around a value. What is written out costs nothing by its size; accumulators (`@result`) were paid for
/// when they were made.
fn pay(at: &mut IdedExpr, price: Price, fixed: u64) {
    let is_free = match &at.expr {
        Expr::Literal(_) | Expr::List(_) | Expr::Map(_) | Expr::Unspecified => true,
        Expr::Ident(name) => name.starts_with('@'),
        _ => false,
    };
    if is_free && fixed == 0 && price != Price::Number {
        return;
    }
    let id = at.id;
    let number = |n: u64| {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        IdedExpr { id, expr: Expr::Literal(LiteralValue::Int(n.into())) }
    };
    let inner = std::mem::take(at);
    let args = vec![inner, number(price as u64), number(fixed)];
    *at = IdedExpr { id, expr: Expr::Call(CallExpr { func_name: PAY.into(), target: None, args }) };
}

// ---- loops

fn visit_loop(at: &mut IdedExpr) -> u64 {
    let id = at.id;
    let Expr::Comprehension(of) = &mut at.expr else { return 0 };
    let makes_map = makes_map(of);
    if let Some(second) = of.iter_var2.take() {
        over_pairs(of, &second, id);
    }
    let once = visit(&mut of.iter_range) + visit(&mut of.accu_init);
    let each = visit(&mut of.loop_cond) + visit(&mut of.loop_step);
    let once = once + visit(&mut of.result);
    let going = match &of.loop_cond.expr {
        Expr::Literal(LiteralValue::Boolean(going)) => Some(*going.inner()),
        _ => None,
    };
    match going {
        // It binds a name and goes round never.
        Some(false) => return once,
        // It goes through everything, and its shape is known to the interpreter.
        Some(true) => pay(&mut of.iter_range, Price::Rounds, each.max(1)),
        None => pay(&mut of.loop_cond, Price::Nothing, each.max(1)),
    }
    if let Some(function) = makes_map {
        let inner = std::mem::take(at);
        *at =
            IdedExpr { id, expr: Expr::Call(CallExpr { func_name: function.into(), target: None, args: vec![inner] }) };
    }
    once
}

/// Binds the pair of both names, and makes of each name a part of the pair.
fn over_pairs(of: &mut ComprehensionExpr, second: &str, id: u64) {
    let pair = format!("@pair{id}");
    let names = [of.iter_var.clone(), second.to_string()];
    for part in [&mut of.loop_cond, &mut of.loop_step] {
        replace_names(part, &names, &pair);
    }
    of.iter_var = pair;
    let range = std::mem::take(&mut of.iter_range);
    let call = CallExpr { func_name: PAIRS.into(), target: None, args: vec![range] };
    of.iter_range = IdedExpr { id, expr: Expr::Call(call) };
}

fn replace_names(at: &mut IdedExpr, names: &[String; 2], pair: &str) {
    let id = at.id;
    let mut below = |part: &mut IdedExpr| replace_names(part, names, pair);
    match &mut at.expr {
        Expr::Ident(name) => {
            if let Some(which) = names.iter().position(|known| known.as_str() == name.as_str()) {
                let of = IdedExpr { id, expr: Expr::Ident(pair.into()) };
                let which = IdedExpr { id, expr: Expr::Literal(LiteralValue::Int((which as i64).into())) };
                let call = CallExpr { func_name: operators::INDEX.into(), target: None, args: vec![of, which] };
                at.expr = Expr::Call(call);
            }
        }
        Expr::Select(select) => below(&mut select.operand),
        Expr::Call(call) => {
            call.target.iter_mut().map(AsMut::as_mut).for_each(&mut below);
            call.args.iter_mut().for_each(below);
        }
        Expr::List(list) => list.elements.iter_mut().for_each(below),
        Expr::Map(map) => map.entries.iter_mut().for_each(|entry| in_entry(entry, below)),
        Expr::Struct(made) => made.entries.iter_mut().for_each(|entry| in_entry(entry, &mut below)),
        Expr::Comprehension(inner) => {
            below(&mut inner.iter_range);
            below(&mut inner.accu_init);
            // Inside, a name that the inner loop binds is another one.
            let left = names.each_ref().map(|name| {
                let is_bound = *name == inner.iter_var || inner.iter_var2.as_ref() == Some(name);
                if is_bound || *name == inner.accu_var { String::new() } else { name.clone() }
            });
            for part in [&mut inner.loop_cond, &mut inner.loop_step] {
                replace_names(part, &left, pair);
            }
            let left = names.each_ref().map(|name| if *name == inner.accu_var { String::new() } else { name.clone() });
            replace_names(&mut inner.result, &left, pair);
        }
        Expr::Literal(_) | Expr::Unspecified => {}
    }
}

fn in_entry(entry: &mut IdedEntryExpr, mut below: impl FnMut(&mut IdedExpr)) {
    match &mut entry.expr {
        EntryExpr::StructField(field) => below(&mut field.value),
        EntryExpr::MapEntry(entry) => {
            below(&mut entry.key);
            below(&mut entry.value);
        }
    }
}

/// Lets a loop that puts entries into a map put them into a list, so that no round copies the map, and names the
/// function that makes a map of the list.
fn makes_map(of: &mut ComprehensionExpr) -> Option<&'static str> {
    let step = match &mut of.loop_step.expr {
        Expr::Call(call) if call.func_name == operators::CONDITIONAL => &mut call.args.get_mut(1)?.expr,
        step => step,
    };
    let Expr::Call(insert) = step else { return None };
    if insert.func_name != INSERT {
        return None;
    }
    let id = of.accu_init.id;
    let list = |elements| IdedExpr { id, expr: Expr::List(ListExpr::new(elements)) };
    let entry = insert.args.split_off(1);
    let (entry, function) = match entry.len() {
        1 => (entry, MAP_OF_MAPS),
        _ => (vec![list(entry)], MAP_OF_PAIRS),
    };
    insert.args.push(list(entry));
    insert.func_name = operators::ADD.into();
    of.accu_init = list(Vec::new());
    Some(function)
}
