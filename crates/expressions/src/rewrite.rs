//! Changes to an expression's tree before it is evaluated.

use std::collections::BTreeSet;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedEntryExpr, LiteralValue, MapEntryExpr, MapExpr, operators};

/// The function that pays; not a name that somebody can write.
pub const PAY: &str = "@pay";

/// What an expression names.
#[derive(Debug, Default)]
pub struct Names {
    /// Variables that it doesn't bind itself.
    pub free: BTreeSet<String>,
    pub functions: BTreeSet<String>,
    /// Types of objects that it makes.
    pub made: BTreeSet<String>,
}

/// The name of a function in a namespace (`math.sqrt`), which the parser sees as a call on a variable `math`.
fn qualified(call: &CallExpr, bound: &[String]) -> Option<String> {
    let Expr::Ident(namespace) = &call.target.as_ref()?.expr else { return None };
    let name = format!("{namespace}.{}", call.func_name);
    (!bound.contains(namespace) && crate::library::is_function(&name)).then_some(name)
}

impl Names {
    pub fn of(tree: &IdedExpr) -> Self {
        let mut names = Names::default();
        names.visit(tree, &mut Vec::new());
        names
    }

    fn visit(&mut self, at: &IdedExpr, bound: &mut Vec<String>) {
        match &at.expr {
            Expr::Ident(name) => {
                if !name.starts_with('@') && !bound.contains(name) {
                    self.free.insert(name.clone());
                }
            }
            Expr::Call(call) => {
                match qualified(call, bound) {
                    Some(name) => {
                        self.functions.insert(name);
                    }
                    None => {
                        self.functions.insert(call.func_name.clone());
                        call.target.iter().for_each(|t| self.visit(t, bound));
                    }
                }
                call.args.iter().for_each(|a| self.visit(a, bound));
            }
            Expr::Comprehension(c) => {
                self.visit(&c.iter_range, bound);
                self.visit(&c.accu_init, bound);
                let depth = bound.len();
                bound.push(c.iter_var.clone());
                bound.extend(c.iter_var2.clone());
                bound.push(c.accu_var.clone());
                for part in [&c.loop_cond, &c.loop_step, &c.result] {
                    self.visit(part, bound);
                }
                bound.truncate(depth);
            }
            Expr::List(list) => list.elements.iter().for_each(|e| self.visit(e, bound)),
            Expr::Map(MapExpr { entries }) => entries.iter().for_each(|e| self.visit_entry(&e.expr, bound)),
            Expr::Struct(made) => {
                self.made.insert(made.type_name.clone());
                made.entries.iter().for_each(|e| self.visit_entry(&e.expr, bound));
            }
            Expr::Select(select) => self.visit(&select.operand, bound),
            Expr::Literal(_) | Expr::Unspecified => {}
        }
    }

    fn visit_entry(&mut self, entry: &EntryExpr, bound: &mut Vec<String>) {
        match entry {
            EntryExpr::StructField(field) => self.visit(&field.value, bound),
            EntryExpr::MapEntry(entry) => {
                self.visit(&entry.key, bound);
                self.visit(&entry.value, bound);
            }
        }
    }
}

/// Puts [`PAY`] around everything that is gone through or handed to a function; and makes maps of the objects that
/// mutating policies write (`Object{spec: Object.spec{…}}`), so that their types need not be declared one by one.
pub fn charge(at: &mut IdedExpr) {
    match &mut at.expr {
        Expr::Call(call) => {
            let in_namespace = qualified(call, &[]).is_some();
            let targets = call.target.iter_mut().map(AsMut::as_mut).filter(|_| !in_namespace);
            let dear = !is_cheap(&call.func_name);
            for argument in targets.chain(&mut call.args) {
                charge(argument);
                if dear {
                    pay_for(argument);
                }
            }
        }
        Expr::Comprehension(c) => {
            for part in [&mut c.iter_range, &mut c.accu_init, &mut c.loop_cond, &mut c.loop_step, &mut c.result] {
                charge(part);
            }
            pay_for(&mut c.iter_range);
        }
        Expr::List(list) => list.elements.iter_mut().for_each(charge),
        Expr::Map(map) => map.entries.iter_mut().for_each(charge_entry),
        Expr::Struct(made) => {
            made.entries.iter_mut().for_each(charge_entry);
            let entries = std::mem::take(&mut made.entries).into_iter().map(as_map_entry).collect();
            at.expr = Expr::Map(MapExpr { entries });
        }
        Expr::Select(select) => charge(&mut select.operand),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
}

/// Makes comparisons of sets of those calls that compare lists whose order means nothing.
pub fn compare_as_sets(at: &mut IdedExpr, calls: &[u64]) {
    if calls.is_empty() {
        return;
    }
    let mut below = |part: &mut IdedExpr| compare_as_sets(part, calls);
    match &mut at.expr {
        Expr::Call(call) => {
            call.target.iter_mut().map(AsMut::as_mut).for_each(&mut below);
            call.args.iter_mut().for_each(&mut below);
            if calls.contains(&at.id) {
                let differ = call.func_name == operators::NOT_EQUALS;
                let sets = IdedExpr { id: at.id, expr: Expr::Ident("sets".into()) };
                let args = std::mem::take(&mut call.args);
                let alike = CallExpr { func_name: "equivalent".into(), target: Some(Box::new(sets)), args };
                *call = match differ {
                    false => alike,
                    true => CallExpr {
                        func_name: operators::LOGICAL_NOT.into(),
                        target: None,
                        args: vec![IdedExpr { id: at.id, expr: Expr::Call(alike) }],
                    },
                };
            }
        }
        Expr::Comprehension(c) => {
            for part in [&mut c.iter_range, &mut c.accu_init, &mut c.loop_cond, &mut c.loop_step, &mut c.result] {
                below(part);
            }
        }
        Expr::List(list) => list.elements.iter_mut().for_each(below),
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    below(&mut entry.key);
                    below(&mut entry.value);
                }
            }
        }
        Expr::Select(select) => below(&mut select.operand),
        Expr::Struct(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
}

fn charge_entry(entry: &mut IdedEntryExpr) {
    match &mut entry.expr {
        EntryExpr::StructField(field) => charge(&mut field.value),
        EntryExpr::MapEntry(entry) => {
            charge(&mut entry.key);
            charge(&mut entry.value);
        }
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

/// Operators that don't look into what they get.
fn is_cheap(function: &str) -> bool {
    matches!(
        function,
        operators::CONDITIONAL
            | operators::LOGICAL_AND
            | operators::LOGICAL_OR
            | operators::LOGICAL_NOT
            | operators::NOT_STRICTLY_FALSE
            | operators::INDEX
            | operators::OPT_INDEX
            | operators::OPT_SELECT
    )
}

/// Literals cost nothing; the accumulators of comprehensions (`@result`) are paid for with what they are made from.
fn pay_for(argument: &mut IdedExpr) {
    let free = match &argument.expr {
        Expr::Literal(_) | Expr::List(_) | Expr::Map(_) | Expr::Unspecified => true,
        Expr::Ident(name) => name.starts_with('@'),
        Expr::Call(call) => call.func_name == PAY,
        _ => false,
    };
    if !free {
        let id = argument.id;
        let inner = std::mem::take(argument);
        *argument =
            IdedExpr { id, expr: Expr::Call(CallExpr { func_name: PAY.into(), target: None, args: vec![inner] }) };
    }
}
