//! The types of an expression and what it can cost at most: found out when a rule is written, so that nobody learns
//! from a refused object that a rule names a field that isn't there.
//!
//! Upstream's checker and its cost model are followed to the number, as they decide which definitions are accepted:
//! [`types`] and [`declared`] say what fits, [`cost`] what it costs, [`schema`] how large values can be.

mod cost;
mod declared;
mod names;
mod schema;
mod sets;
mod types;

use std::collections::HashMap;
use std::fmt::Write as _;

use cel::IdedExpr;
use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, ListExpr, LiteralValue, MapExpr, SourceInfo, operators,
};

use declared::Overload;
pub(crate) use declared::is_function;
use names::qualified_name;
pub(crate) use names::{Names, in_namespace};
pub(crate) use schema::{Node, Sizes};
pub(crate) use sets::compare_as_sets;
use types::Solved;
pub(crate) use types::Type;

use crate::library::{is_type, regular};
use crate::value;

/// What is wrong, and where.
struct Mistake {
    at: u64,
    what: String,
}

/// What is known of an expression that is sound.
pub(crate) struct Checked<'s> {
    pub of: Type<'s>,
    pub cost: u64,
    /// The calls that compare lists whose order means nothing.
    pub unordered: Vec<u64>,
}

pub(crate) struct Checker<'a, 's> {
    source: &'a SourceInfo,
    variables: Vec<(String, Type<'s>)>,
    solved: Solved<'s>,
    next_param: u32,
    types: HashMap<u64, Type<'s>>,
    /// The signatures that a call may have, by its id.
    calls: HashMap<u64, Vec<&'static Overload>>,
}

impl<'a, 's> Checker<'a, 's> {
    pub fn new(source: &'a SourceInfo, variables: Vec<(String, Type<'s>)>) -> Self {
        Checker {
            source,
            variables,
            solved: Solved::default(),
            next_param: 0,
            types: HashMap::new(),
            calls: HashMap::new(),
        }
    }

    /// The type of an expression about values of `root`, and what it costs at most.
    ///
    /// # Errors
    /// In upstream's words, with the place.
    pub fn check(mut self, tree: &IdedExpr, root: Node<'s>) -> Result<Checked<'s>, String> {
        let of = self.visit(tree).map_err(|mistake| self.tell(&mistake))?;
        let of = self.solved.apply(&of, true);
        for known in self.types.values_mut() {
            *known = self.solved.apply(known, true);
        }
        let mut coster = cost::Coster::new(root, self.types, self.calls);
        let cost = coster.cost(tree);
        Ok(Checked { of, cost, unordered: coster.unordered })
    }

    /// The type of an expression.
    ///
    /// # Errors
    /// As [`Checker::check`].
    pub fn of(mut self, tree: &IdedExpr) -> Result<Type<'s>, String> {
        let of = self.visit(tree).map_err(|mistake| self.tell(&mistake))?;
        Ok(self.solved.apply(&of, true))
    }

    fn tell(&self, mistake: &Mistake) -> String {
        let text = self.source.source.as_str();
        let start = self.source.offset_for(mistake.at).map_or(0, |(start, _)| start as usize).min(text.len());
        let before = text.get(..start).unwrap_or("");
        let line = before.matches('\n').count();
        let column = before.rsplit('\n').next().unwrap_or("").chars().count();
        let shown = text.lines().nth(line).unwrap_or("");
        let mut out = String::new();
        // Writing into memory can't fail.
        let _ = write!(
            out,
            "ERROR: <input>:{}:{}: {}\n | {shown}\n | {}^",
            line + 1,
            column + 1,
            mistake.what,
            ".".repeat(column)
        );
        out
    }

    fn fresh(&mut self) -> Type<'s> {
        self.next_param += 1;
        Type::Param(self.next_param - 1)
    }

    fn visit(&mut self, at: &IdedExpr) -> Result<Type<'s>, Mistake> {
        let of = match &at.expr {
            Expr::Ident(name) => self.ident(at.id, name)?,
            Expr::Literal(literal) => of_literal(literal),
            Expr::Select(select) => {
                let named = (!select.test).then(|| qualified_name(at)).flatten();
                match named.filter(|name| self.is_type_name(name)) {
                    Some(_) => Type::Type,
                    None => {
                        let of = self.select(at.id, &select.operand, &select.field)?;
                        if select.test { Type::Bool } else { of }
                    }
                }
            }
            Expr::List(list) => self.list(list)?,
            Expr::Map(map) => self.map(map)?,
            Expr::Comprehension(comprehension) => self.comprehension(comprehension)?,
            Expr::Call(call) => self.call(at.id, call)?,
            Expr::Struct(made) => return Err(undeclared(at.id, &made.type_name)),
            Expr::Unspecified => Type::Dyn,
        };
        self.types.insert(at.id, of.clone());
        Ok(of)
    }

    fn variable(&self, name: &str) -> Option<&Type<'s>> {
        self.variables.iter().rev().find(|(known, _)| known == name).map(|(_, of)| of)
    }

    fn is_type_name(&self, name: &str) -> bool {
        let root = name.split('.').next().unwrap_or(name);
        is_type(name) && self.variable(root).is_none()
    }

    fn ident(&self, at: u64, name: &str) -> Result<Type<'s>, Mistake> {
        match self.variable(name) {
            Some(of) => Ok(of.clone()),
            None if is_type(name) => Ok(Type::Type),
            None => Err(undeclared(at, name)),
        }
    }

    /// The type of a field; of an optional value, an optional field.
    fn select(&mut self, at: u64, operand: &IdedExpr, field: &str) -> Result<Type<'s>, Mistake> {
        // A variable may have a name with a dot in it.
        let dotted = qualified_name(operand).map(|name| format!("{name}.{field}"));
        if let Some(of) = dotted.and_then(|name| self.variable(&name)) {
            return Ok(of.clone());
        }
        let of = self.visit(operand)?;
        let of = self.solved.apply(&of, false);
        let (of, is_optional) = match of {
            Type::Optional(of) => (of.as_ref().clone(), true),
            of => (of, false),
        };
        let undefined = || Mistake { at, what: format!("undefined field '{field}'") };
        let found = match &of {
            Type::Map(_, value) => value.as_ref().clone(),
            Type::Object(node) => node.field(field).and_then(|field| field.of()).ok_or_else(undefined)?,
            Type::Param(_) => {
                self.solved.assign(&Type::Dyn, &of);
                Type::Dyn
            }
            Type::Dyn => Type::Dyn,
            Type::Opaque(name) if name.starts_with("kubernetes.") => return Err(undefined()),
            other => {
                let what = format!("type '{other}' does not support field selection");
                return Err(Mistake { at, what });
            }
        };
        Ok(if is_optional { Type::optional(found) } else { found })
    }

    /// The type of elements that stand together: they must go with each other.
    fn join(&mut self, at: u64, known: Option<Type<'s>>, next: Type<'s>) -> Result<Option<Type<'s>>, Mistake> {
        let shown = known.clone();
        match (self.solved.join(known, next.clone()), shown) {
            (None, Some(known)) => {
                let (known, next) = (self.solved.apply(&known, true), self.solved.apply(&next, true));
                Err(Mistake { at, what: format!("expected type '{known}' but found '{next}'") })
            }
            (joined, _) => Ok(joined),
        }
    }

    /// The type of an element that is there only if its value is.
    fn unwrapped(&self, at: u64, of: Type<'s>) -> Result<Type<'s>, Mistake> {
        match of {
            Type::Optional(of) => Ok(of.as_ref().clone()),
            Type::Dyn => Ok(Type::Dyn),
            of => Err(Mistake { at, what: format!("expected type 'optional_type({of})' but found '{of}'") }),
        }
    }

    fn list(&mut self, list: &ListExpr) -> Result<Type<'s>, Mistake> {
        let mut of = None;
        for (i, element) in list.elements.iter().enumerate() {
            let mut next = self.visit(element)?;
            if list.optional_indices.contains(&i) {
                next = self.unwrapped(element.id, next)?;
            }
            of = self.join(element.id, of, next)?;
        }
        Ok(Type::list(of.unwrap_or_else(|| self.fresh())))
    }

    fn map(&mut self, map: &MapExpr) -> Result<Type<'s>, Mistake> {
        let (mut keys, mut values) = (None, None);
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
            let key = self.visit(&entry.key)?;
            keys = self.join(entry.key.id, keys, key)?;
            let mut value = self.visit(&entry.value)?;
            if entry.optional {
                value = self.unwrapped(entry.value.id, value)?;
            }
            values = self.join(entry.value.id, values, value)?;
        }
        let (key, value) = (keys.unwrap_or_else(|| self.fresh()), values.unwrap_or_else(|| self.fresh()));
        Ok(Type::map(key, value))
    }

    fn comprehension(&mut self, of: &ComprehensionExpr) -> Result<Type<'s>, Mistake> {
        let range = self.visit(&of.iter_range)?;
        let range = self.solved.apply(&range, false);
        let start = self.visit(&of.accu_init)?;
        let is_pair = of.iter_var2.is_some();
        let (first, second) = match &range {
            Type::List(item) if is_pair => (Type::Int, item.as_ref().clone()),
            Type::List(item) => (item.as_ref().clone(), Type::Dyn),
            Type::Map(key, value) => (key.as_ref().clone(), value.as_ref().clone()),
            Type::Dyn | Type::Param(_) => {
                self.solved.assign(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let what = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return Err(Mistake { at: of.iter_range.id, what });
            }
        };
        let outside = self.variables.len();
        self.variables.push((of.accu_var.clone(), start.clone()));
        let inside = self.variables.len();
        self.variables.push((of.iter_var.clone(), first));
        if let Some(name) = &of.iter_var2 {
            self.variables.push((name.clone(), second));
        }
        let condition = self.visit(&of.loop_cond)?;
        self.want(of.loop_cond.id, &condition, &Type::Bool)?;
        let step = self.visit(&of.loop_step)?;
        self.want(of.loop_step.id, &step, &start)?;
        self.variables.truncate(inside);
        let result = self.visit(&of.result)?;
        self.variables.truncate(outside);
        Ok(self.solved.apply(&result, false))
    }

    fn want(&mut self, at: u64, is: &Type<'s>, wanted: &Type<'s>) -> Result<(), Mistake> {
        if self.solved.assign(is, wanted) {
            return Ok(());
        }
        let (is, wanted) = (self.solved.apply(is, true), self.solved.apply(wanted, true));
        Err(Mistake { at, what: format!("expected type '{wanted}' but found '{is}'") })
    }

    fn call(&mut self, at: u64, call: &CallExpr) -> Result<Type<'s>, Mistake> {
        if call.func_name == operators::OPT_SELECT
            && let [operand, field] = call.args.as_slice()
            && let Expr::Literal(LiteralValue::String(name)) = &field.expr
        {
            let of = self.select(at, operand, name.inner())?;
            let known = declared::overloads(operators::OPT_SELECT).unwrap_or_default();
            self.calls.insert(at, known.iter().collect());
            return Ok(match of {
                Type::Optional(_) => of,
                of => Type::optional(of),
            });
        }
        let mut arguments = Vec::with_capacity(call.args.len() + 1);
        for argument in &call.args {
            arguments.push(self.visit(argument)?);
        }
        // `sets.contains(x, y)` is a call of a function in a namespace, not one on a variable.
        if let Some(name) = in_namespace(call) {
            check_literals(call)?;
            return self.resolve(at, &name, false, &arguments);
        }
        let is_member = call.target.is_some();
        if let Some(target) = &call.target {
            let of = self.visit(target)?;
            arguments.insert(0, of);
        }
        check_literals(call)?;
        self.resolve(at, &call.func_name, is_member, &arguments)
    }

    /// Finds the signatures that fit, and what the call results in.
    fn resolve(&mut self, at: u64, name: &str, is_member: bool, arguments: &[Type<'s>]) -> Result<Type<'s>, Mistake> {
        let known = declared::overloads(name).ok_or_else(|| undeclared(at, name))?;
        let mut fitting = Vec::new();
        let mut result: Option<Type<'s>> = None;
        for overload in known.iter().filter(|o| o.is_member == is_member) {
            let base = self.next_param;
            let wanted: Vec<Type<'s>> = overload.arguments.iter().map(|of| instance(of, base)).collect();
            self.next_param += overload.params;
            if !self.solved.assign_all(arguments, &wanted) {
                continue;
            }
            fitting.push(overload);
            let of = self.solved.apply(&instance(&overload.result, base), false);
            result = Some(match result {
                None => of,
                Some(known) if known.is(&of) => known,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            let mut shown = arguments.iter().map(|of| self.solved.apply(of, true).to_string());
            let target = if is_member { shown.next() } else { None };
            let listed = shown.collect::<Vec<_>>().join(", ");
            let applied = target.map_or(format!("({listed})"), |target| format!("{target}.({listed})"));
            let what = format!("found no matching overload for '{name}' applied to '{applied}'");
            return Err(Mistake { at, what });
        };
        self.calls.insert(at, fitting);
        Ok(result)
    }
}

/// A type of a declaration with parameters of its own.
fn instance<'s>(of: &Type<'static>, base: u32) -> Type<'s> {
    match of {
        Type::Param(param) => Type::Param(base + param),
        Type::List(of) => Type::list(instance(of, base)),
        Type::Optional(of) => Type::optional(instance(of, base)),
        Type::Map(key, of) => Type::map(instance(key, base), instance(of, base)),
        other => other.clone(),
    }
}

fn undeclared(at: u64, name: &str) -> Mistake {
    Mistake { at, what: format!("undeclared reference to '{name}' (in container '')") }
}

/// Times, durations and patterns that are written out must be ones (upstream's AST validators).
fn check_literals(call: &CallExpr) -> Result<(), Mistake> {
    let Some(argument) = call.args.first() else { return Ok(()) };
    let Expr::Literal(LiteralValue::String(text)) = &argument.expr else { return Ok(()) };
    let text = text.inner();
    let good = match (call.func_name.as_str(), call.target.is_some()) {
        ("duration", false) => value::duration(text).is_some(),
        ("timestamp", false) => chrono::DateTime::parse_from_rfc3339(text).is_ok(),
        ("matches", true) => regular(text).is_ok(),
        _ => true,
    };
    match good {
        true => Ok(()),
        false => Err(Mistake { at: argument.id, what: format!("invalid {} argument", call.func_name) }),
    }
}

fn of_literal<'s>(literal: &LiteralValue) -> Type<'s> {
    match literal {
        LiteralValue::Boolean(_) => Type::Bool,
        LiteralValue::Bytes(_) => Type::Bytes,
        LiteralValue::Double(_) => Type::Double,
        LiteralValue::Int(_) => Type::Int,
        LiteralValue::Null => Type::Null,
        LiteralValue::String(_) => Type::Text,
        LiteralValue::UInt(_) => Type::Uint,
    }
}
