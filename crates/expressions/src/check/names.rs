//! What an expression names: variables, functions, types.

use std::collections::BTreeSet;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, EntryExpr, Expr, MapExpr};

use super::declared::is_function;

/// What an expression names.
#[derive(Debug, Default)]
pub struct Names {
    /// Variables that it doesn't bind itself.
    pub free: BTreeSet<String>,
    pub functions: BTreeSet<String>,
    /// Types of objects that it makes.
    pub made: BTreeSet<String>,
}

/// The name that an identifier, or selections on one, spell: `a.b.c`.
pub fn qualified_name(of: &IdedExpr) -> Option<String> {
    let mut parts = Vec::new();
    let mut at = &of.expr;
    loop {
        match at {
            Expr::Ident(name) => {
                parts.push(name.as_str());
                parts.reverse();
                return Some(parts.join("."));
            }
            Expr::Select(select) if !select.test => {
                parts.push(&select.field);
                at = &select.operand.expr;
            }
            _ => return None,
        }
    }
}

/// The name of a function in a namespace (`sets.contains`), which the parser sees as a call on a variable `sets`.
pub fn in_namespace(call: &CallExpr) -> Option<String> {
    let Expr::Ident(namespace) = &call.target.as_ref()?.expr else { return None };
    let name = format!("{namespace}.{}", call.func_name);
    is_function(&name).then_some(name)
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
                match in_namespace(call) {
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
            Expr::Select(select) => {
                // The names of some types have dots.
                let is_type = qualified_name(at).is_some_and(|name| crate::library::is_type(&name));
                if !is_type {
                    self.visit(&select.operand, bound);
                }
            }
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
