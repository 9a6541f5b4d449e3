//! Types of expressions, and what they can cost at most: found out when a rule is written, so that nobody learns from
//! a refused object that a rule names a field that isn't there.
//!
//! Types come from structural schemas. Where one isn't known, anything goes, and the evaluation decides. Costs follow
//! upstream's estimate: sizes from `maxLength`, `maxItems` and `maxProperties`, and where these are missing, what fits
//! into a request.

use std::fmt::Write as _;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, SourceInfo, operators};
use serde_json::Value;

use crate::value::escape;

/// What a request holds at most, in bytes, without the quotes around it.
const REQUEST: u64 = 3 * 1024 * 1024 - 2;
/// What looking at ten bytes of a text costs is one.
const TRAVERSAL: f64 = 0.1;
const PATTERN: f64 = 0.25;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Type<'s> {
    Any,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Bytes(u64),
    /// With the most bytes it can have.
    Text(u64),
    Time,
    Duration,
    /// With the most items it can have, and whether their order means nothing (`x-kubernetes-list-type`).
    List(Box<Type<'s>>, u64, bool),
    Map(Box<Type<'s>>, u64),
    /// An object with the properties of a schema, and whether it is the root of a resource.
    Object(&'s Value, bool),
}

impl<'s> Type<'s> {
    /// The type of values of `schema`, or `None` when rules can't see them.
    pub fn of(schema: &'s Value, is_resource: bool) -> Option<Self> {
        if schema["x-kubernetes-int-or-string"] == true {
            return Some(Type::Any);
        }
        Some(match schema["type"].as_str()? {
            "array" => {
                let items = &schema["items"];
                let most = schema["maxItems"].as_u64().unwrap_or(REQUEST / (smallest(items) + 1));
                let unordered = matches!(schema["x-kubernetes-list-type"].as_str(), Some("set" | "map"));
                Type::List(Box::new(Type::of(items, is_embedded(items))?), most, unordered)
            }
            "object" if schema["additionalProperties"].is_object() => {
                let of = &schema["additionalProperties"];
                let most = schema["maxProperties"].as_u64().unwrap_or(REQUEST / (smallest(of) + 6));
                Type::Map(Box::new(Type::of(of, is_embedded(of))?), most)
            }
            "object" => Type::Object(schema, is_resource),
            "string" => match schema["format"].as_str().unwrap_or("") {
                "byte" => Type::Bytes(schema["maxLength"].as_u64().unwrap_or(REQUEST)),
                "duration" => Type::Duration,
                "date" | "date-time" => Type::Time,
                _ => Type::Text(longest(schema)),
            },
            "boolean" => Type::Bool,
            "number" => Type::Double,
            "integer" => Type::Int,
            _ => return None,
        })
    }

    /// A field of an object, by the name that it has in expressions.
    fn field(&self, name: &str) -> Result<Type<'s>, ()> {
        match self {
            Type::Object(schema, is_resource) => {
                let properties = schema["properties"].as_object();
                let found = properties.into_iter().flatten().find(|(key, _)| escape(key) == name);
                if *is_resource && matches!(name, "apiVersion" | "kind") {
                    return Ok(Type::Text(REQUEST));
                }
                if *is_resource && name == "metadata" {
                    return Ok(Type::Object(&METADATA, false));
                }
                found.and_then(|(_, of)| Type::of(of, is_embedded(of))).ok_or(())
            }
            Type::Map(of, _) => Ok(of.as_ref().clone()),
            Type::Any => Ok(Type::Any),
            _ => Err(()),
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Type::Int | Type::Uint | Type::Double)
    }

    /// Whether values of two types can be compared.
    fn is_like(&self, other: &Type<'_>) -> bool {
        match (self, other) {
            (Type::Any | Type::Null, _) | (_, Type::Any | Type::Null) => true,
            (Type::Bytes(_), Type::Bytes(_)) | (Type::Text(_), Type::Text(_)) => true,
            (Type::List(a, ..), Type::List(b, ..)) | (Type::Map(a, _), Type::Map(b, _)) => a.is_like(b),
            (Type::Object(..) | Type::Map(..), Type::Object(..) | Type::Map(..)) => true,
            (a, b) if a.is_number() && b.is_number() => true,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }

    /// How large a value is that is looked through.
    fn size(&self) -> u64 {
        match self {
            Type::Bytes(most) | Type::Text(most) | Type::List(_, most, _) | Type::Map(_, most) => *most,
            _ => 1,
        }
    }

    /// What it costs to go through a value.
    fn traversal(&self) -> u64 {
        scale(self.size(), TRAVERSAL)
    }
}

impl std::fmt::Display for Type<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Type::Any => "dyn",
            Type::Null => "null",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::Bytes(_) => "bytes",
            Type::Text(_) => "string",
            Type::Time => "google.protobuf.Timestamp",
            Type::Duration => "google.protobuf.Duration",
            Type::List(of, ..) => return write!(f, "list({of})"),
            Type::Map(of, _) => return write!(f, "map(string, {of})"),
            Type::Object(..) => "object",
        })
    }
}

/// What rules may see of the metadata of resources.
static METADATA: std::sync::LazyLock<Value> = std::sync::LazyLock::new(
    || serde_json::json!({"type": "object", "properties": {"name": {"type": "string"}, "generateName": {"type": "string"}}}),
);

fn is_embedded(schema: &Value) -> bool {
    schema["x-kubernetes-embedded-resource"] == true
}

fn scale(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

/// Bytes of the longest text of a schema. A character may have four.
fn longest(schema: &Value) -> u64 {
    let chosen = schema["enum"].as_array().map(|all| all.iter().filter_map(Value::as_str).map(str::len).max());
    match (chosen.flatten(), schema["maxLength"].as_u64()) {
        (Some(longest), _) => longest as u64,
        (None, Some(most)) => most.saturating_mul(4),
        (None, None) => REQUEST,
    }
}

/// Bytes of the smallest value of a schema.
fn smallest(schema: &Value) -> u64 {
    match schema["type"].as_str().unwrap_or("") {
        "boolean" => 4,
        "integer" | "number" => 1,
        "object" => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let fields = required.filter_map(|name| Some((name, schema["properties"].get(name)?)));
            let fields = fields.filter(|(_, of)| of.get("default").is_none());
            2 + fields.map(|(name, of)| name.len() as u64 + smallest(of) + 4).sum::<u64>()
        }
        "string" | "array" => 2,
        _ => 1,
    }
}

/// The largest number of values that a schema below `schema` has for each of its own: of items, or of members.
pub fn most_children(schema: &Value) -> u64 {
    match Type::of(schema, false) {
        Some(Type::List(_, most, _) | Type::Map(_, most)) => most,
        _ if schema["items"].is_object() => schema["maxItems"].as_u64().unwrap_or(REQUEST / 2),
        _ => 1,
    }
}

/// What is wrong, and where.
struct Mistake {
    at: u64,
    what: String,
}

/// A type with what it cost to come to it.
struct Found<'s> {
    of: Type<'s>,
    cost: u64,
}

pub(crate) struct Checker<'a, 's> {
    source: &'a SourceInfo,
    variables: Vec<(String, Type<'s>)>,
    /// Comparisons of lists whose order means nothing.
    unordered: Vec<u64>,
}

/// What is known of an expression that is sound.
pub(crate) struct Checked<'s> {
    pub of: Type<'s>,
    pub cost: u64,
    /// The calls that compare lists whose order means nothing.
    pub unordered: Vec<u64>,
}

impl<'a, 's> Checker<'a, 's> {
    pub fn new(source: &'a SourceInfo, variables: Vec<(String, Type<'s>)>) -> Self {
        Checker { source, variables, unordered: Vec::new() }
    }

    /// The type of an expression, and what it costs at most.
    ///
    /// # Errors
    /// In upstream's words, with the place.
    pub fn check(mut self, tree: &IdedExpr) -> Result<Checked<'s>, String> {
        match self.visit(tree) {
            Ok(found) => Ok(Checked { of: found.of, cost: found.cost, unordered: self.unordered }),
            Err(mistake) => Err(self.tell(&mistake)),
        }
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

    fn visit(&mut self, at: &IdedExpr) -> Result<Found<'s>, Mistake> {
        let found = |of, cost| Ok(Found { of, cost });
        match &at.expr {
            Expr::Ident(name) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                found(known.map_or(Type::Any, |(_, of)| of.clone()), 1)
            }
            Expr::Literal(literal) => found(of_literal(literal), 0),
            Expr::Select(select) => {
                let operand = self.visit(&select.operand)?;
                let undefined = |()| Mistake { at: at.id, what: format!("undefined field '{}'", select.field) };
                let of = match &operand.of {
                    Type::Null
                    | Type::Bool
                    | Type::Int
                    | Type::Uint
                    | Type::Double
                    | Type::Text(_)
                    | Type::List(..) => {
                        let what = format!("type '{}' does not support field selection", operand.of);
                        return Err(Mistake { at: at.id, what });
                    }
                    Type::Bytes(_) | Type::Time | Type::Duration => Type::Any,
                    of => of.field(&select.field).map_err(undefined)?,
                };
                found(if select.test { Type::Bool } else { of }, operand.cost.saturating_add(1))
            }
            Expr::List(list) => {
                let mut cost = 10u64;
                let mut of: Option<Type<'s>> = None;
                for element in &list.elements {
                    let next = self.visit(element)?;
                    cost = cost.saturating_add(next.cost);
                    of = Some(join(of, next.of));
                }
                found(Type::List(Box::new(of.unwrap_or(Type::Any)), list.elements.len() as u64, false), cost)
            }
            Expr::Map(map) => {
                let mut cost = 30u64;
                let mut of: Option<Type<'s>> = None;
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        let (key, value) = (self.visit(&entry.key)?, self.visit(&entry.value)?);
                        cost = cost.saturating_add(key.cost).saturating_add(value.cost);
                        of = Some(join(of, value.of));
                    }
                }
                found(Type::Map(Box::new(of.unwrap_or(Type::Any)), map.entries.len() as u64), cost)
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Call(call) => self.call(at.id, call),
            Expr::Struct(_) | Expr::Unspecified => found(Type::Any, 40),
        }
    }

    fn comprehension(&mut self, of: &ComprehensionExpr) -> Result<Found<'s>, Mistake> {
        let range = self.visit(&of.iter_range)?;
        let start = self.visit(&of.accu_init)?;
        let (first, second) = match &range.of {
            Type::List(item, ..) if of.iter_var2.is_some() => (Type::Int, item.as_ref().clone()),
            Type::List(item, ..) => (item.as_ref().clone(), Type::Any),
            Type::Map(member, _) => (Type::Text(REQUEST), member.as_ref().clone()),
            Type::Any => (Type::Any, Type::Any),
            other => {
                let what = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return Err(Mistake { at: of.iter_range.id, what });
            }
        };
        let depth = self.variables.len();
        self.variables.push((of.iter_var.clone(), first));
        if let Some(name) = &of.iter_var2 {
            self.variables.push((name.clone(), second));
        }
        // A list that is put together grows with each step.
        let grows = matches!(start.of, Type::List(..) | Type::Map(..));
        let result = match start.of {
            Type::List(..) => Type::List(Box::new(Type::Any), range.of.size(), false),
            Type::Map(..) => Type::Map(Box::new(Type::Any), range.of.size()),
            other => other,
        };
        self.variables.push((of.accu_var.clone(), if grows { Type::Any } else { result.clone() }));
        let condition = self.visit(&of.loop_cond)?;
        let step = self.visit(&of.loop_step)?;
        self.variables.truncate(depth);
        let round = condition.cost.saturating_add(step.cost);
        let size = if range.of == Type::Any { 1 } else { range.of.size() };
        let cost = size.saturating_mul(round).saturating_add(range.cost).saturating_add(start.cost).saturating_add(1);
        // What `exists_one` counts comes out as a truth.
        let of = if result == Type::Int { Type::Bool } else { result };
        Ok(Found { of, cost })
    }

    fn call(&mut self, at: u64, call: &CallExpr) -> Result<Found<'s>, Mistake> {
        let target = match &call.target {
            // `math.sqrt(x)` is no call on a variable.
            Some(target) if is_namespace(target, &call.func_name) => None,
            Some(target) => Some(self.visit(target)?),
            None => None,
        };
        let mut arguments = Vec::with_capacity(call.args.len());
        for argument in &call.args {
            arguments.push(self.visit(argument)?);
        }
        let paid = target.iter().chain(&arguments).fold(0u64, |sum, found| sum.saturating_add(found.cost));
        let none = || {
            let listed: Vec<String> = arguments.iter().map(|a| a.of.to_string()).collect();
            let (to, listed) = (target.as_ref().map(|t| t.of.to_string()), listed.join(", "));
            let applied = to.map_or(format!("({listed})"), |to| format!("{to}.({listed})"));
            let what = format!("found no matching overload for '{}' applied to '{applied}'", call.func_name);
            Mistake { at, what }
        };
        let found = |of, cost: u64| Ok(Found { of, cost: paid.saturating_add(cost) });
        let of = |i: usize| arguments.get(i).map_or(&Type::Any, |a| &a.of);
        let truths = || arguments.iter().all(|a| matches!(a.of, Type::Bool | Type::Any));
        match call.func_name.as_str() {
            operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT => {
                if truths() {
                    found(Type::Bool, 0)
                } else {
                    Err(none())
                }
            }
            operators::NOT_STRICTLY_FALSE => found(Type::Bool, 0),
            operators::CONDITIONAL => match of(0) {
                Type::Bool | Type::Any => {
                    let dear = arguments.iter().skip(1).map(|a| a.cost).max().unwrap_or(0);
                    let cost = arguments[0].cost.saturating_add(dear);
                    Ok(Found { of: join(Some(of(1).clone()), of(2).clone()), cost })
                }
                _ => Err(none()),
            },
            operators::EQUALS | operators::NOT_EQUALS => {
                if !of(0).is_like(of(1)) {
                    return Err(none());
                }
                if let (Type::List(_, _, true), Type::List(_, _, true)) = (of(0), of(1)) {
                    self.unordered.push(at);
                }
                found(Type::Bool, scale(of(0).size().min(of(1).size()), TRAVERSAL))
            }
            operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS => {
                let ordered =
                    |t: &Type<'_>| !matches!(t, Type::Null | Type::List(..) | Type::Map(..) | Type::Object(..));
                if !of(0).is_like(of(1)) || !ordered(of(0)) || !ordered(of(1)) {
                    return Err(none());
                }
                found(Type::Bool, scale(of(0).size().min(of(1).size()), TRAVERSAL))
            }
            operators::ADD => found(self::sum(of(0), of(1)).ok_or_else(none)?, of(0).traversal() + of(1).traversal()),
            operators::SUBSTRACT => match (of(0), of(1)) {
                (Type::Time, Type::Time) => found(Type::Duration, 1),
                (Type::Time | Type::Duration, Type::Duration) => found(of(0).clone(), 1),
                (a, b) => found(arithmetic(a, b).ok_or_else(none)?, 1),
            },
            operators::MULTIPLY | operators::DIVIDE | operators::MODULO => {
                found(arithmetic(of(0), of(1)).ok_or_else(none)?, 1)
            }
            operators::NEGATE => found(of(0).clone(), 1),
            operators::INDEX => match of(0) {
                Type::List(item, ..) => found(item.as_ref().clone(), 1),
                Type::Map(member, _) => found(member.as_ref().clone(), 1),
                Type::Any => found(Type::Any, 1),
                _ => Err(none()),
            },
            operators::OPT_INDEX | operators::OPT_SELECT => found(Type::Any, 1),
            operators::IN => match of(1) {
                Type::List(item, most, _) if of(0).is_like(item) => found(Type::Bool, *most),
                Type::Map(..) | Type::Any => found(Type::Bool, 1),
                _ => Err(none()),
            },
            name => match &target {
                Some(target) => {
                    let (of, cost) = member(name, &target.of, &arguments).ok_or_else(none)?;
                    found(of, cost)
                }
                None => {
                    let cost = arguments.iter().map(|a| a.of.traversal()).fold(1, u64::saturating_add);
                    let size = arguments.first().map_or(REQUEST, |a| a.of.size());
                    match name {
                        "size" | "int" => found(Type::Int, 1),
                        "double" => found(Type::Double, 1),
                        "uint" => found(Type::Uint, 1),
                        "bool" => found(Type::Bool, 1),
                        "string" => found(Type::Text(size), cost),
                        "bytes" => found(Type::Bytes(size), cost),
                        "duration" => found(Type::Duration, cost),
                        "timestamp" => found(Type::Time, cost),
                        "isQuantity" | "isURL" | "isIP" | "isCIDR" | "isSemver" => found(Type::Bool, cost),
                        _ => found(Type::Any, cost),
                    }
                }
            },
        }
    }
}

fn is_namespace(target: &IdedExpr, function: &str) -> bool {
    matches!(&target.expr, Expr::Ident(name) if crate::library::is_function(&format!("{name}.{function}")))
}

fn of_literal<'s>(literal: &LiteralValue) -> Type<'s> {
    match literal {
        LiteralValue::Boolean(_) => Type::Bool,
        LiteralValue::Bytes(bytes) => Type::Bytes(bytes.inner().len() as u64),
        LiteralValue::Double(_) => Type::Double,
        LiteralValue::Int(_) => Type::Int,
        LiteralValue::Null => Type::Null,
        LiteralValue::String(text) => Type::Text(text.inner().len() as u64),
        LiteralValue::UInt(_) => Type::Uint,
    }
}

/// What two types have in common.
fn join<'s>(known: Option<Type<'s>>, next: Type<'s>) -> Type<'s> {
    match (known, next) {
        (None, next) => next,
        (Some(Type::Text(a)), Type::Text(b)) => Type::Text(a.max(b)),
        (Some(Type::Bytes(a)), Type::Bytes(b)) => Type::Bytes(a.max(b)),
        (Some(Type::List(a, most, free)), Type::List(b, other, too)) => {
            Type::List(Box::new(join(Some(*a), *b)), most.max(other), free && too)
        }
        (Some(known), next) if known == next => known,
        _ => Type::Any,
    }
}

fn arithmetic<'s>(a: &Type<'s>, b: &Type<'s>) -> Option<Type<'s>> {
    match (a, b) {
        (Type::Any, other) | (other, Type::Any) if other.is_number() || *other == Type::Any => Some(other.clone()),
        (a, b) if a.is_number() && a == b => Some(a.clone()),
        _ => None,
    }
}

fn sum<'s>(a: &Type<'s>, b: &Type<'s>) -> Option<Type<'s>> {
    Some(match (a, b) {
        (Type::Text(a), Type::Text(b)) => Type::Text(a.saturating_add(*b)),
        (Type::Bytes(a), Type::Bytes(b)) => Type::Bytes(a.saturating_add(*b)),
        (Type::List(a, most, _), Type::List(b, other, _)) if a.is_like(b) => {
            Type::List(Box::new(join(Some(a.as_ref().clone()), b.as_ref().clone())), most.saturating_add(*other), false)
        }
        (Type::Time, Type::Duration) | (Type::Duration, Type::Time) => Type::Time,
        (Type::Duration, Type::Duration) => Type::Duration,
        (Type::Any, _) | (_, Type::Any) => Type::Any,
        _ => return arithmetic(a, b),
    })
}

/// The result of a function that is called on a value, and its cost; `None` where the value has no such function.
fn member<'s>(name: &str, on: &Type<'s>, arguments: &[Found<'s>]) -> Option<(Type<'s>, u64)> {
    let size = on.size();
    let argument = arguments.first().map_or(1, |a| a.of.size());
    let of_text = |result: Type<'s>, cost: u64| matches!(on, Type::Text(_) | Type::Any).then_some((result, cost));
    match name {
        "size" => matches!(on, Type::Text(_) | Type::Bytes(_) | Type::List(..) | Type::Map(..) | Type::Any)
            .then_some((Type::Int, 1)),
        "startsWith" | "endsWith" => of_text(Type::Bool, scale(argument, TRAVERSAL)),
        "matches" => of_text(Type::Bool, scale(size + 1, TRAVERSAL).saturating_mul(scale(argument, PATTERN))),
        "contains" if !matches!(on, Type::Any) => {
            of_text(Type::Bool, scale(size, TRAVERSAL).saturating_mul(scale(argument, TRAVERSAL)))
        }
        "lowerAscii" | "upperAscii" | "trim" | "substring" | "replace" | "charAt" => {
            of_text(Type::Text(size), scale(size, TRAVERSAL))
        }
        "split" => of_text(Type::List(Box::new(Type::Text(size)), size, false), scale(size, TRAVERSAL)),
        "join" => matches!(on, Type::List(..) | Type::Any).then_some((Type::Text(REQUEST), scale(size, TRAVERSAL))),
        "find" => of_text(Type::Text(size), scale(size + 1, TRAVERSAL).saturating_mul(scale(argument, PATTERN))),
        "findAll" => of_text(
            Type::List(Box::new(Type::Text(size)), size, false),
            scale(size + 1, TRAVERSAL).saturating_mul(scale(argument, PATTERN)),
        ),
        "isSorted" => matches!(on, Type::List(..) | Type::Any).then_some((Type::Bool, size)),
        "getFullYear" | "getMonth" | "getDate" | "getDayOfMonth" | "getDayOfWeek" | "getDayOfYear" | "getHours"
        | "getMinutes" | "getSeconds" | "getMilliseconds" => {
            matches!(on, Type::Time | Type::Duration | Type::Any).then_some((Type::Int, 1))
        }
        _ => Some((Type::Any, scale(size, TRAVERSAL).saturating_add(1))),
    }
}
