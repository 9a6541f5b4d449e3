//! What calls of functions cost beside their arguments, and how large their results are.

use cel::IdedExpr;
use cel::common::ast::{Expr, LiteralValue, operators};

use super::size::{PATTERN, Price, Size, TRAVERSAL, scale};
use super::{Coster, LIST, Parts, Step};
use crate::check::types::Type;

/// How long upstream takes the pattern of a named format to be.
const FORMAT_PATTERN: f64 = 128.0;
/// The most characters that a number, a time, an address or a range has when it is written out.
const SCALAR_TEXT: u64 = 64;

impl Coster<'_> {
    /// Functions whose price upstream binds to the signature: those of lists and sets.
    pub(super) fn of_lists(&mut self, parts: &Parts<'_>, overload: &str) -> Option<Price> {
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
    pub(super) fn of_libraries(&mut self, parts: &Parts<'_>, overload: &str) -> Option<Price> {
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
    pub(super) fn of_language(&mut self, at: u64, parts: &Parts<'_>, overload: &str) -> Option<Price> {
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
}

fn is_accumulator(path: &[Step]) -> bool {
    matches!(path.first(), Some(Step::Name(name)) if name == "@result" || name == "__result__")
}

fn is_text_comparison(overload: &str) -> bool {
    ["less_", "less_equals_", "greater_", "greater_equals_"]
        .iter()
        .any(|of| overload.strip_prefix(of).is_some_and(|kind| kind == "string" || kind == "bytes"))
}
