//! What an expression costs at most: the reference estimate of the language (its sizes and prices), with the prices of
//! Kubernetes' libraries. Sizes that nobody knows are without limit.
//!
//! A price here decides which definitions are accepted, so that it must not differ from upstream's.

use std::collections::HashMap;
use std::sync::Arc;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators};

use super::declared::Overload;
use super::schema::{Node, Sizes};
use super::types::Type;

/// What looking at one character or byte costs.
pub(crate) const TRAVERSAL: f64 = 0.1;
/// What one character of a regular expression costs.
pub(crate) const PATTERN: f64 = 0.25;
/// How long upstream takes the pattern of a named format to be.
const FORMAT_PATTERN: f64 = 128.0;
const LIST: u64 = 10;
const MAP: u64 = 30;
const OBJECT: u64 = 40;

/// The fewest and the most elements of a value.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Size {
    least: u64,
    most: u64,
}

/// The most characters that a number, a time, an address or a range has when it is written out.
const SCALAR_TEXT: u64 = 64;

impl Size {
    const UNKNOWN: Size = Size { least: 0, most: u64::MAX };

    fn fixed(size: u64) -> Self {
        Size { least: size, most: size }
    }

    fn up_to(most: u64) -> Self {
        Size { least: 0, most }
    }

    fn plus(self, other: Size) -> Self {
        Size { least: self.least.saturating_add(other.least), most: self.most.saturating_add(other.most) }
    }

    fn times(self, other: Size) -> Self {
        Size { least: self.least.saturating_mul(other.least), most: self.most.saturating_mul(other.most) }
    }

    fn or(self, other: Size) -> Self {
        Size { least: self.least.min(other.least), most: self.most.max(other.most) }
    }

    /// What going through it costs at most.
    fn cost(self, factor: f64) -> u64 {
        scale(self.most, factor)
    }
}

/// The sizes of what a list or map holds.
#[derive(Debug, Clone, Copy)]
struct Entry {
    is_list: bool,
    key: Size,
    value: Size,
}

impl Entry {
    fn or(self, other: Entry) -> Self {
        Entry { is_list: self.is_list, key: self.key.or(other.key), value: self.value.or(other.value) }
    }
}

/// A way from a variable to a value.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Name(String),
    Items,
    Values,
    Keys,
    Indices,
}

type Path = Arc<Vec<Step>>;

struct Local {
    name: String,
    path: Path,
    size: Option<Size>,
    entry: Option<Entry>,
}

/// What a call costs beside its arguments, and how large its result is, if that is known.
struct Price {
    cost: u64,
    size: Option<Size>,
}

impl Price {
    fn of(cost: u64) -> Self {
        Price { cost, size: None }
    }

    fn with(cost: u64, size: Size) -> Self {
        Price { cost, size: Some(size) }
    }
}

pub(super) fn scale(size: u64, factor: f64) -> u64 {
    // A float that doesn't fit becomes the greatest integer.
    (size as f64 * factor).ceil() as u64
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
        let in_namespace = crate::rewrite::in_namespace(call);
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

    /// Functions whose price upstream binds to the signature: those of lists and sets.
    fn of_lists(&mut self, parts: &Parts<'_>, overload: &str) -> Option<Price> {
        let list = |factor: f64, size: Size| Some(Price::with(size.cost(factor).saturating_add(1 + LIST), size));
        let sort = |text: &str| if text == "string" || text == "bytes" { 2.0 + TRAVERSAL } else { 2.0 };
        let number = |i: usize, otherwise: u64| match parts.arguments.get(i).map(|a| &a.expr) {
            Some(Expr::Literal(LiteralValue::Int(n))) => u64::try_from(*n.inner()).unwrap_or(0),
            Some(Expr::Literal(LiteralValue::UInt(n))) => *n.inner(),
            _ => otherwise,
        };
        match overload {
            "list_slice" => {
                let size = self.size_or_unknown(parts.target?);
                list(1.0, Size::fixed(number(1, size.most).wrapping_sub(number(0, 0))))
            }
            "lists_range" => list(1.0, Size::fixed(number(0, u64::MAX))),
            "list_reverse" => list(1.0, self.size_or_unknown(parts.target?)),
            "list_flatten" => list(1.0, self.size_or_unknown(parts.target?)),
            "list_flatten_int" => list(number(0, u64::MAX) as f64, self.size_or_unknown(parts.target?)),
            "list_distinct" => {
                let size = self.size_or_unknown(parts.target?);
                list(2.0, size.times(size))
            }
            "list_sets_contains_list" | "list_sets_intersects_list" | "list_sets_equivalent_list" => {
                let [a, b] = parts.arguments else { return None };
                let size = self.size_or_unknown(a).times(self.size_or_unknown(b));
                let factor = if overload == "list_sets_equivalent_list" { 2.0 } else { 1.0 };
                Some(Price::of(size.cost(factor).saturating_add(1)))
            }
            _ => {
                let of = overload.strip_prefix("list_")?;
                let (of, keys) = match of.strip_suffix("_sort") {
                    Some(of) => (of, parts.target?),
                    None => (of.strip_suffix("_sortByAssociatedKeys")?, parts.arguments.first()?),
                };
                let size = self.size_or_unknown(keys);
                list(sort(of), size.times(size))
            }
        }
    }

    /// Functions of Kubernetes' libraries.
    fn of_libraries(&mut self, parts: &Parts<'_>, overload: &str) -> Option<Price> {
        let first = parts.arguments.first();
        // Upstream counts the bytes of addresses: four, or sixteen.
        let addresses = scale(32, TRAVERSAL);
        Some(match parts.name {
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => {
                self.through_list(parts.target?, parts.name)
            }
            "url" | "jsonpatch.escapeKey" => {
                let size = self.size_or_unknown(first?);
                Price::with(size.cost(TRAVERSAL), size)
            }
            "lowerAscii" | "upperAscii" | "substring" | "trim" => {
                let size = self.size_or_unknown(parts.target?);
                Price::with(size.cost(TRAVERSAL), size)
            }
            "replace" => self.replace(parts)?,
            "split" => {
                let size = self.size_or_unknown(parts.target?);
                let most = match parts.arguments.get(1).map(|a| &a.expr) {
                    Some(Expr::Literal(LiteralValue::Int(n))) => *n.inner() as u64,
                    _ => size.most,
                };
                Price::with(size.cost(2.0 * TRAVERSAL), Size::up_to(most))
            }
            "join" => self.join(parts)?,
            "find" | "findAll" => {
                let size = self.size_or_unknown(parts.target?);
                let pattern = self.size_or_unknown(first?).cost(PATTERN);
                let text = size.plus(Size::fixed(1)).cost(TRAVERSAL);
                Price::with(text.saturating_mul(pattern), Size::up_to(size.most))
            }
            "ip" if overload == "cidr_ip" => Price::of(1),
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
                Price::of(self.size_or_unknown(first?).cost(TRAVERSAL))
            }
            "ip.isCanonical" => Price::of(self.size_or_unknown(first?).cost(2.0 * TRAVERSAL)),
            "containsIP" | "containsCIDR" => {
                let masking = if parts.name == "containsCIDR" { scale(16, TRAVERSAL) + 1 } else { 0 };
                let is_text = matches!(overload, "cidr_contains_ip_string" | "cidr_contains_cidr_string");
                let parsing = if is_text { self.size_or_unknown(first?).cost(TRAVERSAL) } else { 0 };
                Price::of(parsing.saturating_add(addresses + masking))
            }
            "validate" => {
                let text = self.size_or_unknown(first?).cost(TRAVERSAL);
                Price::of(scale(text, FORMAT_PATTERN * PATTERN))
            }
            operators::EQUALS => self.equality(parts)?,
            _ => return None,
        })
    }

    /// Comparisons of types of libraries.
    fn equality(&mut self, parts: &Parts<'_>) -> Option<Price> {
        let [a, b] = parts.arguments else { return None };
        match (self.types.get(&a.id)?, self.types.get(&b.id)?) {
            (Type::Opaque(one), Type::Opaque(other)) if one == other => Some(match *one {
                "kubernetes.NamedFormat" => Price::of(scale(64, TRAVERSAL)),
                "kubernetes.URL" => {
                    let size = self.size(b).unwrap_or(Size::fixed(1));
                    Price::of(size.cost(TRAVERSAL))
                }
                _ => Price::of(1),
            }),
            _ => None,
        }
    }

    /// One for each item, and for texts what looking at them costs.
    fn through_list(&mut self, target: &IdedExpr, name: &str) -> Price {
        let size = self.size_or_unknown(target);
        let item = match self.types.get(&target.id) {
            Some(Type::List(of)) => Some(of.as_ref().clone()),
            _ => None,
        };
        Price::of(match item {
            Some(Type::Text | Type::Bytes) => {
                let each = self.item_size(target).cost(TRAVERSAL).saturating_add(1);
                size.most.saturating_mul(each)
            }
            Some(_) => size.most,
            None if name == "includes" => size.most,
            // Texts have these functions, too.
            None => size.cost(TRAVERSAL),
        })
    }

    fn item_size(&self, list: &IdedExpr) -> Size {
        let path = self.path(list);
        if path.is_empty() || is_accumulator(&path) {
            return Size::UNKNOWN;
        }
        let mut path = path.as_ref().clone();
        path.push(Step::Items);
        self.node(&path).map_or(Size::UNKNOWN, |node| Size::up_to(self.sizes.most(&node)))
    }

    /// The result has the longest new texts in the place of the shortest old ones.
    fn replace(&mut self, parts: &Parts<'_>) -> Option<Price> {
        let size = self.size_or_unknown(parts.target?);
        let [old, new, ..] = parts.arguments else { return None };
        let (old, new) = (self.size_or_unknown(old), self.size_or_unknown(new));
        let divide = |a: u64, b: u64| (a as f64 / b as f64).ceil() as u64;
        let (mut count, mut kept) = (Size::fixed(0), Size::fixed(0));
        if old.least == 0 {
            (count.most, kept.most) = (size.most.saturating_add(1), size.most);
        } else if new.most <= old.least {
            kept.most = size.most;
        } else {
            count.most = divide(size.most, old.least);
        }
        if old.most == 0 {
            (count.least, kept.least) = (size.least.saturating_add(1), size.least);
        } else if old.most <= new.least {
            kept.least = size.least;
        } else {
            count.least = divide(size.least, old.most);
        }
        Some(Price::with(size.cost(2.0 * TRAVERSAL), count.times(new).plus(kept)))
    }

    fn join(&mut self, parts: &Parts<'_>) -> Option<Price> {
        let target = parts.target?;
        let list = self.size_or_unknown(target);
        let mut size = Size::fixed(0);
        if matches!(self.types.get(&target.id), Some(Type::List(_))) {
            size = list.times(self.item_size(target));
        }
        if let Some(separator) = parts.arguments.first() {
            let between = Size { least: list.least.saturating_sub(1), most: list.most.saturating_sub(1) };
            size = size.plus(self.size_or_unknown(separator).times(between));
        }
        Some(Price::with(size.cost(TRAVERSAL), size))
    }

    /// Functions and operators of the language that look through what they get.
    fn of_language(&mut self, at: u64, parts: &Parts<'_>, overload: &str) -> Option<Price> {
        let first = parts.arguments.first();
        Some(match overload {
            "string_format" => Price::of(self.size_or_unknown(parts.target?).cost(TRAVERSAL)),
            "string_to_bytes" => {
                let size = self.size_or_unknown(first?);
                Price::with(size.cost(TRAVERSAL), Size { least: size.least, most: size.most.saturating_mul(4) })
            }
            "bytes_to_string" => {
                let size = self.size_or_unknown(first?);
                Price::with(size.cost(TRAVERSAL), Size { least: size.least / 4, most: size.most })
            }
            // Upstream knows no size for these, and so refuses `'at most ' + string(self.limit)`, an example of its own documentation.
            "bool_to_string"
            | "int64_to_string"
            | "uint64_to_string"
            | "double_to_string"
            | "duration_to_string"
            | "timestamp_to_string"
            | "ip_to_string"
            | "cidr_to_string" => Price::with(1, Size::up_to(SCALAR_TEXT)),
            "strings_quote" => {
                let size = self.size_or_unknown(first?);
                let quoted =
                    Size { least: size.least.saturating_add(2), most: size.most.saturating_mul(2).saturating_add(2) };
                Price::with(size.cost(TRAVERSAL), quoted)
            }
            "starts_with_string" | "ends_with_string" => Price::of(self.size_or_unknown(first?).cost(TRAVERSAL)),
            "in_list" => Price::of(self.size_or_unknown(parts.arguments.get(1)?).most),
            "matches_string" => {
                let text = self.size_or_unknown(parts.target?).plus(Size::fixed(1)).cost(TRAVERSAL);
                Price::of(text.saturating_mul(self.size_or_unknown(first?).cost(PATTERN)))
            }
            "contains_string" => {
                let text = self.size_or_unknown(parts.target?).cost(TRAVERSAL);
                Price::of(text.saturating_mul(self.size_or_unknown(first?).cost(TRAVERSAL)))
            }
            "add_string" | "add_bytes" | "add_list" => {
                let [a, b] = parts.arguments else { return None };
                let size = self.size_or_unknown(a).plus(self.size_or_unknown(b));
                if let (Some(a), Some(b)) = (self.entry(a), self.entry(b)) {
                    self.entries.insert(at, a.or(b));
                }
                Price::with(if overload == "add_list" { 1 } else { size.cost(TRAVERSAL) }, size)
            }
            "equals" | "not_equals" => self.compared(parts)?,
            other if is_text_comparison(other) => self.compared(parts)?,
            _ => return None,
        })
    }

    /// Comparing ends where the smaller one ends.
    fn compared(&mut self, parts: &Parts<'_>) -> Option<Price> {
        let [a, b] = parts.arguments else { return None };
        let most = self.size_or_unknown(a).most.min(self.size_or_unknown(b).most);
        Some(Price::of(scale(most, TRAVERSAL)))
    }

    // ---- paths and sizes

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| local.name == name)
    }

    fn path(&self, of: &IdedExpr) -> Path {
        if let Expr::Ident(name) = &of.expr
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&of.id).cloned().unwrap_or_default()
    }

    fn below(&self, of: &IdedExpr, step: Step) -> Path {
        let mut path = self.path(of).as_ref().clone();
        path.push(step);
        Arc::new(path)
    }

    /// The schema at the end of a way; its first step is the variable.
    fn node(&self, path: &[Step]) -> Option<Node<'s>> {
        let (_, steps) = path.split_first()?;
        let mut at = self.root;
        for step in steps {
            at = match step {
                Step::Items | Step::Values => at.items().or_else(|| at.values())?,
                Step::Keys | Step::Indices => return None,
                // Words that the language reserves are known by their escaped names here.
                Step::Name(name) if crate::value::is_reserved(name) => return None,
                Step::Name(name) => at.field(name)?,
            };
        }
        Some(at)
    }

    fn size_or_unknown(&mut self, of: &IdedExpr) -> Size {
        self.size(of).unwrap_or(Size::UNKNOWN)
    }

    fn size(&mut self, of: &IdedExpr) -> Option<Size> {
        self.size_of(of.id, Some(of))
    }

    fn size_of(&mut self, id: u64, of: Option<&IdedExpr>) -> Option<Size> {
        if let Some(known) = self.known.get(&id) {
            return Some(*known);
        }
        match of.map(|of| &of.expr) {
            Some(Expr::Literal(literal)) => return Some(Size::fixed(of_literal(literal))),
            Some(Expr::List(list)) => return Some(Size::fixed(list.elements.len() as u64)),
            Some(Expr::Map(map)) => return Some(Size::fixed(map.entries.len() as u64)),
            _ => {}
        }
        let path = of.map_or_else(|| self.paths.get(&id).cloned().unwrap_or_default(), |of| self.path(of));
        if let Some(size) = self.estimate(&path) {
            self.known.insert(id, size);
            return Some(size);
        }
        if self.types.get(&id).is_some_and(Type::is_scalar) {
            return Some(Size::fixed(1));
        }
        match of.map(|of| &of.expr) {
            Some(Expr::Ident(name)) => self.local(name).and_then(|local| local.size),
            _ => None,
        }
    }

    /// What the schema says of the size of a value. Keys of maps count nothing (upstream's type of keys has no size).
    fn estimate(&self, path: &[Step]) -> Option<Size> {
        if let [before @ .., Step::Keys] = path
            && !before.is_empty()
        {
            return self.node(before).and_then(|node| node.values()).map(|_| Size::up_to(0));
        }
        self.node(path).map(|node| Size::up_to(self.sizes.most(&node)))
    }

    fn set(&mut self, at: u64, size: Option<Size>) {
        if let Some(size) = size {
            self.known.insert(at, size);
        }
    }

    fn entry(&self, of: &IdedExpr) -> Option<Entry> {
        if let Some(known) = self.entries.get(&of.id) {
            return Some(*known);
        }
        match &of.expr {
            Expr::Ident(name) => self.local(name).and_then(|local| local.entry),
            _ => None,
        }
    }

    fn copy(&mut self, to: u64, from: &IdedExpr) {
        let size = self.size(from);
        self.set(to, size);
        if let Some(entry) = self.entry(from) {
            self.entries.insert(to, entry);
        }
    }
}

/// `optMap` and the like bind a name by a loop over nothing.
fn is_binding(of: &ComprehensionExpr) -> bool {
    let nothing = matches!(&of.iter_range.expr, Expr::List(list) if list.elements.is_empty());
    let never = matches!(&of.loop_cond.expr, Expr::Literal(LiteralValue::Boolean(truth)) if !*truth.inner());
    nothing && never && of.accu_var != "__result__"
}

fn is_accumulator(path: &[Step]) -> bool {
    matches!(path.first(), Some(Step::Name(name)) if name == "@result" || name == "__result__")
}

fn is_text_comparison(overload: &str) -> bool {
    ["less_", "less_equals_", "greater_", "greater_equals_"]
        .iter()
        .any(|of| overload.strip_prefix(of).is_some_and(|kind| kind == "string" || kind == "bytes"))
}

fn of_literal(literal: &LiteralValue) -> u64 {
    match literal {
        LiteralValue::String(text) => text.inner().chars().count() as u64,
        LiteralValue::Bytes(bytes) => bytes.inner().len() as u64,
        _ => 1,
    }
}
