//! CEL as Kubernetes speaks it: rules of custom resources, match conditions of webhooks, admission policies.
//!
//! The language comes from the crate `cel`. What is here: Kubernetes' libraries ([`library`]), values that know their
//! schema ([`value`]), and a budget ([`budget`]): an expression is written by somebody, evaluated in every write, and
//! must not be able to stop the server.
//!
//! Source: <https://kubernetes.io/docs/reference/using-api/cel/>

#![warn(missing_docs, clippy::missing_errors_doc)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests see a panic by themselves"))]

pub mod admission;
mod budget;
mod check;
mod depth;
pub mod device;
mod library;
mod lower;
mod macros;
mod value;

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use cel::common::types::CelBool;
use cel::common::value::{CowVal, Val};
use cel::{Context, Env, IdedExpr, Program, Value as CelValue};
use serde_json::Value;

use check::{Checker, Node, Type};

pub use budget::Budget;
pub use library::{Attributes, Authorizer, regular};

/// Longer expressions are refused before they are parsed, in bytes.
const MAX_EXPRESSION_BYTES: usize = 64 << 10;

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(library::environment()));

/// An expression that was understood.
#[derive(Debug)]
pub struct Expression {
    tree: IdedExpr,
    variables: BTreeSet<String>,
}

/// What a rule of a schema is about.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The schema is that of a whole resource.
    pub is_resource: bool,
    /// `oldSelf` is an optional value.
    pub optional_old: bool,
    /// What its value has to be.
    pub wanted: Wanted,
}

/// What an expression has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A bool, as rules are.
    Truth,
    /// A string, as message expressions are.
    Text,
}

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// There was nothing left of the budget that it shares with others.
    Budget,
    /// It did more than one evaluation may.
    Call,
    /// What went wrong in it, in words.
    Evaluation(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Budget | Failure::Call => f.write_str("operation cancelled: actual cost limit exceeded"),
            Failure::Evaluation(why) => f.write_str(why),
        }
    }
}

fn parse(source: &str) -> Result<Program, String> {
    let program = ENVIRONMENT.compile(source).map_err(|e| e.to_string())?;
    depth::check(program.expression())?;
    Ok(program)
}

/// Whether a text may be an expression at all.
fn check_source(source: &str) -> Result<(), String> {
    if source.trim().is_empty() {
        return Err("the expression is empty".into());
    }
    if source.len() > MAX_EXPRESSION_BYTES {
        return Err(format!("the expression has {} bytes; the most is {MAX_EXPRESSION_BYTES}", source.len()));
    }
    Ok(())
}

/// The variables that an expression uses. Those, and its functions and types, must be there.
fn free(tree: &IdedExpr, variables: &[&str]) -> Result<BTreeSet<String>, String> {
    let names = check::Names::of(tree);
    if let Some(unknown) = names.free.iter().find(|v| !variables.contains(&v.as_str()) && !library::is_type(v)) {
        return Err(format!("undeclared reference to '{unknown}' (in container '')"));
    }
    if let Some(unknown) = names.functions.iter().find(|f| !check::is_function(f)) {
        return Err(format!("undeclared reference to '{unknown}' (in container '')"));
    }
    if let Some(unknown) = names.made.iter().find(|t| !library::is_made_type(t)) {
        return Err(format!("undeclared reference to '{unknown}' (in container '')"));
    }
    Ok(names.free)
}

impl Expression {
    /// Reads an expression that may use `variables`.
    ///
    /// # Errors
    /// In words, when it isn't CEL, or uses variables or functions that aren't there.
    pub fn compile(source: &str, variables: &[&str]) -> Result<Self, String> {
        check_source(source)?;
        depth::guarded(source, || {
            let program = parse(source)?;
            let variables = free(program.expression(), variables)?;
            Ok(Self::of(program.expression().clone(), variables))
        })
    }

    /// Reads a rule about values of `schema`: an expression of `self` and `oldSelf`. Also returns what it can cost.
    ///
    /// # Errors
    /// In words, as [`Expression::compile`], and when it uses a field that the schema doesn't have, calls what a value
    /// can't do, or has a value of another type than `wanted`.
    pub fn compile_rule(source: &str, schema: &Value, rule: &Rule) -> Result<(Self, u64), String> {
        check_source(source)?;
        depth::guarded(source, || {
            let program = parse(source)?;
            let used = check::Names::of(program.expression()).free;
            let root = Node { schema, is_resource: rule.is_resource };
            let of = root.of().unwrap_or(Type::Dyn);
            let old = if rule.optional_old { Type::optional(of.clone()) } else { of.clone() };
            let variables = vec![("self".to_string(), of), ("oldSelf".to_string(), old)];
            let checked = Checker::new(program.source_info(), variables).check(program.expression(), root)?;
            match (rule.wanted, &checked.of) {
                (Wanted::Truth, Type::Bool) | (Wanted::Text, Type::Text) => {}
                (Wanted::Truth, _) => return Err("cel expression must evaluate to a bool".into()),
                (Wanted::Text, _) => return Err("messageExpression must evaluate to a string".into()),
            }
            let mut tree = program.expression().clone();
            check::compare_as_sets(&mut tree, &checked.unordered);
            Ok((Self::of(tree, used), checked.cost))
        })
    }

    fn of(mut tree: IdedExpr, variables: BTreeSet<String>) -> Self {
        lower::lower(&mut tree);
        Expression { tree, variables }
    }

    /// Whether the expression uses a variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// The value as a truth.
    ///
    /// # Errors
    /// When it has none, costs too much, or isn't a truth.
    pub fn is_true(&self, scope: &Scope<'_>, budget: &Budget) -> Result<bool, Failure> {
        self.run(scope, budget, |value| {
            let truth = value.downcast_ref::<CelBool>();
            truth.map(|b| *b.inner()).ok_or_else(|| format!("the value is no bool but {}", value.get_type().name()))
        })
    }

    /// The value as JSON.
    ///
    /// # Errors
    /// When it has none, costs too much, or JSON can't say it.
    pub fn json(&self, scope: &Scope<'_>, budget: &Budget) -> Result<Value, Failure> {
        self.run(scope, budget, |value| value::to_json(value))
    }

    /// The value as a text, if it is one.
    ///
    /// # Errors
    /// When it has none, costs too much, or isn't a text.
    pub fn text(&self, scope: &Scope<'_>, budget: &Budget) -> Result<String, Failure> {
        match self.json(scope, budget)? {
            Value::String(text) => Ok(text),
            other => Err(Failure::Evaluation(format!("the value is no string but {other}"))),
        }
    }

    fn run<T>(
        &self,
        scope: &Scope<'_>,
        budget: &Budget,
        read: impl FnOnce(&dyn Val) -> Result<T, String>,
    ) -> Result<T, Failure> {
        let spent = budget::Spending::start(budget);
        let value: Result<CowVal<'_, '_>, _> = CelValue::resolve_val(&self.tree, &scope.context);
        let value = value.map_err(|e| words(&e)).and_then(|value| read(value.as_ref()));
        // An error for which there was no budget may have been swallowed by an `||`.
        if let Some(failure) = spent.end() {
            return Err(failure);
        }
        value.map_err(Failure::Evaluation)
    }
}

/// An error in the words of upstream's implementation where clients see them.
fn words(error: &cel::ExecutionError) -> String {
    match error {
        cel::ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
        cel::ExecutionError::DivisionByZero(_) => "division by zero".into(),
        cel::ExecutionError::FunctionError { message, .. } => message.clone(),
        cel::ExecutionError::IndexOutOfBounds(index) => {
            format!("index out of bounds: {}", index.json().unwrap_or_default())
        }
        other => other.to_string(),
    }
}

/// The values of variables.
pub struct Scope<'v> {
    context: Context<'v, 'v>,
}

impl Default for Scope<'_> {
    fn default() -> Self {
        Scope { context: Context::with_env(ENVIRONMENT.clone()) }
    }
}

impl<'v> Scope<'v> {
    /// Gives a variable a value without a schema: names of fields stay as they are.
    pub fn bind(&mut self, name: &str, value: &'v Value) {
        self.context.add_variable_as_val(name, value::untyped(value));
    }

    /// Gives a variable a value that a structural schema describes.
    pub fn bind_typed(&mut self, name: &str, value: &'v Value, schema: &'v Value) {
        self.context.add_variable_as_val(name, value::typed(value, schema));
    }

    /// Gives a variable an optional value that a structural schema describes.
    pub fn bind_optional(&mut self, name: &str, value: Option<&'v Value>, schema: &'v Value) {
        self.context.add_variable_as_val(name, value::optional(value.map(|v| value::typed(v, schema))));
    }

    /// Gives a variable somebody who answers questions about rights.
    pub fn bind_authorizer(&mut self, name: &str, authorizer: Authorizer) {
        self.context.add_variable_as_val(name, Box::new(authorizer));
    }
}

/// How many values of a schema fit into one request: how often a rule may run at most where a list or map around it has
/// no limit (upstream's `MaxCardinality`).
pub fn most_in_request(schema: &Value, is_resource: bool) -> u64 {
    check::Sizes::default().most_in_request(&Node { schema, is_resource })
}

#[cfg(test)]
mod tests;
