//! What an expression costs at most: the reference estimate of the language (its sizes and prices), with the prices of
//! Kubernetes' libraries. Sizes that nobody knows are without limit.
//!
//! A price here decides which definitions are accepted, so that it must not differ from upstream's.

mod functions;
mod paths;
mod size;

use std::collections::HashMap;
use std::sync::Arc;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators};

use super::declared::Overload;
use super::names::in_namespace;
use super::schema::{Node, Sizes};
use super::types::Type;
use paths::{Path, Step};
use size::{Entry, Price, Size};

const LIST: u64 = 10;
const MAP: u64 = 30;
const OBJECT: u64 = 40;

struct Local {
    name: String,
    path: Path,
    size: Option<Size>,
    entry: Option<Entry>,
}

pub(super) struct Coster<'s> {
    root: Node<'s>,
    sizes: Sizes,
    types: HashMap<u64, Type<'s>>,
    calls: HashMap<u64, Vec<&'static Overload>>,
    paths: HashMap<u64, Path>,
    locals: Vec<Local>,
    known: HashMap<u64, Size>,
    entries: HashMap<u64, Entry>,
    /// Comparisons of lists whose order means nothing.
    pub unordered: Vec<u64>,
}

/// The parts of a call.
struct Parts<'e> {
    name: &'e str,
    target: Option<&'e IdedExpr>,
    arguments: &'e [IdedExpr],
}

impl<'s> Coster<'s> {
    pub fn new(root: Node<'s>, types: HashMap<u64, Type<'s>>, calls: HashMap<u64, Vec<&'static Overload>>) -> Self {
        Coster {
            root,
            sizes: Sizes::default(),
            types,
            calls,
            paths: HashMap::new(),
            locals: Vec::new(),
            known: HashMap::new(),
            entries: HashMap::new(),
            unordered: Vec::new(),
        }
    }

    pub fn cost(&mut self, at: &IdedExpr) -> u64 {
        match &at.expr {
            Expr::Literal(_) | Expr::Unspecified => 0,
            Expr::Ident(name) => {
                let path = self.local(name).map(|local| local.path.clone());
                self.paths.insert(at.id, path.unwrap_or_else(|| Arc::new(vec![Step::Name(name.clone())])));
                1
            }
            // A type's name is one identifier.
            Expr::Select(select) if !select.test && !self.types.contains_key(&select.operand.id) => 1,
            Expr::Select(select) => {
                let operand = self.cost(&select.operand);
                if select.test {
                    return operand;
                }
                let path = self.below(&select.operand, Step::Name(select.field.clone()));
                self.paths.insert(at.id, path);
                let of = self.types.get(&select.operand.id);
                operand.saturating_add(u64::from(matches!(of, Some(Type::Map(..) | Type::Object(_)))))
            }
            Expr::Call(call) => self.call(at.id, call),
            Expr::List(list) => {
                let mut cost = LIST;
                let mut value = None;
                for element in &list.elements {
                    cost = cost.saturating_add(self.cost(element));
                    value = Some(self.or(value, element));
                }
                let value = value.unwrap_or(Size::fixed(0));
                self.entries.insert(at.id, Entry { is_list: true, key: Size::fixed(1), value });
                cost
            }
            Expr::Map(map) => {
                let mut cost = MAP;
                let (mut key, mut value) = (None, None);
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
                    cost = cost.saturating_add(self.cost(&entry.key)).saturating_add(self.cost(&entry.value));
                    key = Some(self.or(key, &entry.key));
                    value = Some(self.or(value, &entry.value));
                }
                let (key, value) = (key.unwrap_or(Size::fixed(0)), value.unwrap_or(Size::fixed(0)));
                self.entries.insert(at.id, Entry { is_list: false, key, value });
                cost
            }
            Expr::Struct(_) => OBJECT,
            Expr::Comprehension(of) if is_binding(of) => {
                let cost = self.cost(&of.iter_range).saturating_add(self.cost(&of.accu_init));
                self.bind(&of.accu_var, &of.accu_init);
                let cost = cost.saturating_add(self.cost(&of.result));
                self.copy(at.id, &of.result);
                self.locals.pop();
                cost
            }
            Expr::Comprehension(of) => self.comprehension(at.id, of),
        }
    }

    fn or(&mut self, known: Option<Size>, next: &IdedExpr) -> Size {
        let next = self.size_or_unknown(next);
        known.map_or(next, |known| known.or(next))
    }

    fn comprehension(&mut self, at: u64, of: &ComprehensionExpr) -> u64 {
        let cost = self.cost(&of.iter_range).saturating_add(self.cost(&of.accu_init));
        self.bind(&of.accu_var, &of.accu_init);
        let entry = self.entry(&of.iter_range);
        let is_list = match &entry {
            Some(entry) => entry.is_list,
            None => matches!(self.types.get(&of.iter_range.id), Some(Type::List(_))),
        };
        let (keys, values) = if is_list { (Step::Indices, Step::Items) } else { (Step::Keys, Step::Values) };
        let (key, value) = (entry.map(|e| e.key), entry.map(|e| e.value));
        let outside = self.locals.len();
        match &of.iter_var2 {
            Some(second) => {
                self.iterate(&of.iter_var, &of.iter_range, keys, key);
                self.iterate(second, &of.iter_range, values, value);
            }
            None if is_list => self.iterate(&of.iter_var, &of.iter_range, values, value),
            None => self.iterate(&of.iter_var, &of.iter_range, keys, key),
        }
        let condition = self.cost(&of.loop_cond);
        let step = self.cost(&of.loop_step);
        self.locals.truncate(outside);
        let cost = cost.saturating_add(self.cost(&of.result));
        self.locals.pop();
        let count = self.size_or_unknown(&of.iter_range);
        match &of.accu_init.expr {
            Expr::Literal(_) => {
                let size = self.size(&of.accu_init);
                self.set(at, size);
            }
            Expr::List(_) | Expr::Map(_) => {
                self.set(at, Some(count));
                if let Some(entry) = self.entry(&of.loop_step) {
                    self.entries.insert(at, entry);
                }
            }
            _ => {}
        }
        cost.saturating_add(count.most.saturating_mul(condition.saturating_add(step)))
    }

    fn iterate(&mut self, name: &str, range: &IdedExpr, step: Step, size: Option<Size>) {
        let path = self.below(range, step);
        self.locals.push(Local { name: name.into(), path, size, entry: None });
    }

    fn bind(&mut self, name: &str, to: &IdedExpr) {
        let (path, size, entry) = (self.path(to), self.size(to), self.entry(to));
        self.locals.push(Local { name: name.into(), path, size, entry });
    }

    fn call(&mut self, at: u64, call: &CallExpr) -> u64 {
        if let ("dyn", [argument]) = (call.func_name.as_str(), call.args.as_slice()) {
            let cost = self.cost(argument);
            self.copy(at, argument);
            return cost.saturating_add(1);
        }
        let costs: Vec<u64> = call.args.iter().map(|argument| self.cost(argument)).collect();
        let Some(overloads) = self.calls.get(&at).cloned() else { return 0 };
        let in_namespace = in_namespace(call);
        let target = call.target.as_deref().filter(|_| in_namespace.is_none());
        let name = in_namespace.as_deref().unwrap_or(&call.func_name);
        let on = target.map_or(0, |target| self.cost(target));
        let parts = Parts { name, target, arguments: &call.args };
        self.note_unordered(at, &parts);
        let (mut dearest, mut size) = (0, None);
        for overload in overloads {
            let price = self.price(at, &parts, &overload.id, &costs);
            dearest = dearest.max(price.cost);
            if let Some(result) = price.size {
                size = Some(size.map_or(result, |known: Size| known.or(result)));
            }
            let step = match overload.id.as_str() {
                "index_list" => Some(Step::Items),
                "index_map" => Some(Step::Values),
                _ => None,
            };
            if let (Some(step), Some(of)) = (step, call.args.first()) {
                size = self.entry(of).map(|entry| entry.value);
                let path = self.below(of, step);
                self.paths.insert(at, path);
            }
            if size.is_none() {
                size = self.size_of(at, None);
            }
        }
        self.set(at, size);
        on.saturating_add(dearest)
    }

    fn note_unordered(&mut self, at: u64, parts: &Parts<'_>) {
        if let (operators::EQUALS | operators::NOT_EQUALS, [a, b]) = (parts.name, parts.arguments) {
            let unordered = |of: &IdedExpr| self.node(&self.path(of)).is_some_and(|node| node.is_unordered());
            if unordered(a) && unordered(b) {
                self.unordered.push(at);
            }
        }
    }

    /// What a call costs, with its arguments.
    fn price(&mut self, at: u64, parts: &Parts<'_>, overload: &str, costs: &[u64]) -> Price {
        let arguments = costs.iter().fold(0u64, |sum, cost| sum.saturating_add(*cost));
        let found = self.of_lists(parts, overload).or_else(|| self.of_libraries(parts, overload));
        if let Some(price) = found.or_else(|| self.of_language(at, parts, overload)) {
            return Price { cost: price.cost.saturating_add(arguments), size: price.size };
        }
        match (overload, costs, parts.arguments) {
            ("logical_and" | "logical_or", ..) => Price::of(arguments),
            ("conditional", [condition, a, b], [_, yes, no]) => {
                let size = self.size_or_unknown(yes).or(self.size_or_unknown(no));
                if let (Some(a), Some(b)) = (self.entry(yes), self.entry(no)) {
                    self.entries.insert(at, a.or(b));
                }
                Price::with(condition.saturating_add(*a.max(b)), size)
            }
            _ => Price::of(arguments.saturating_add(1)),
        }
    }
}

/// `optMap` and the like bind a name by a loop over nothing.
fn is_binding(of: &ComprehensionExpr) -> bool {
    let nothing = matches!(&of.iter_range.expr, Expr::List(list) if list.elements.is_empty());
    let never = matches!(&of.loop_cond.expr, Expr::Literal(LiteralValue::Boolean(truth)) if !*truth.inner());
    nothing && never && of.accu_var != "__result__"
}
