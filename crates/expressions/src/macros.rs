//! Macros over keys and values together (`ext.TwoVarComprehensions`), expanded as the reference implementation does, so
//! that they cost what they cost there. What the evaluation makes of them is in [`crate::lower`].

use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, ListExpr, LiteralValue, MapExpr, operators};
use cel::parser::{Macro, MacroExprHelper, ParseError};
use cel::{DeclarationError, Env, IdedExpr};

/// The name that accumulates; nobody can write it.
pub const RESULT: &str = "@result";
/// The function that puts entries into a map.
pub const INSERT: &str = "cel.@mapInsert";

pub fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    for name in ["all", "exists", "existsOne", "exists_one"] {
        env.add_macro(Macro::receiver(name, 3, move |helper, target, args| expand(name, helper, target, args)))?;
    }
    for name in ["transformList", "transformMap", "transformMapEntry"] {
        for count in [3, 4] {
            env.add_macro(Macro::receiver(name, count, move |helper, target, args| {
                expand(name, helper, target, args)
            }))?;
        }
    }
    Ok(())
}

fn expand(
    name: &str,
    helper: &mut MacroExprHelper<'_>,
    target: &mut Option<IdedExpr>,
    args: &mut Vec<IdedExpr>,
) -> Result<Option<IdedExpr>, ParseError> {
    let (first, second) = names(helper, args)?;
    let Some(range) = target.take() else { return Ok(None) };
    let mut rest = std::mem::take(args).into_iter().skip(2);
    let (Some(one), other) = (rest.next(), rest.next()) else { return Ok(None) };
    let make = Maker { helper };
    let made = match name {
        "all" => make.quantifier(range, first, second, one, true),
        "exists" => make.quantifier(range, first, second, one, false),
        "existsOne" | "exists_one" => make.exactly_one(range, first, second, one),
        name => {
            let (filter, transform) = match other {
                Some(transform) => (Some(one), transform),
                None => (None, one),
            };
            make.transformed(name, range, first, second, filter, transform)
        }
    };
    Ok(Some(made))
}

/// The two names that the macro binds.
fn names(helper: &MacroExprHelper<'_>, args: &[IdedExpr]) -> Result<(String, String), ParseError> {
    let name = |at: usize| match args.get(at).map(|arg| (&arg.expr, arg.id)) {
        Some((Expr::Ident(name), _)) if name != RESULT && name != "__result__" => Ok(name.clone()),
        Some((Expr::Ident(_), id)) => Err(helper.new_error(id, "iteration variable overwrites accumulator variable")),
        Some((_, id)) => Err(helper.new_error(id, "argument must be a simple name")),
        None => Err(helper.new_error(0, "argument must be a simple name")),
    };
    let (first, second) = (name(0)?, name(1)?);
    if first == second {
        let at = args.get(1).map_or(0, |arg| arg.id);
        return Err(helper.new_error(at, format!("duplicate variable name: {first}")));
    }
    Ok((first, second))
}

struct Maker<'a, 'h> {
    helper: &'a mut MacroExprHelper<'h>,
}

impl Maker<'_, '_> {
    fn expr(&mut self, expr: Expr) -> IdedExpr {
        self.helper.next_expr(expr)
    }

    fn ident(&mut self, name: &str) -> IdedExpr {
        self.expr(Expr::Ident(name.into()))
    }

    fn truth(&mut self, truth: bool) -> IdedExpr {
        self.expr(Expr::Literal(LiteralValue::Boolean(truth.into())))
    }

    fn one(&mut self) -> IdedExpr {
        self.expr(Expr::Literal(LiteralValue::Int(1_i64.into())))
    }

    fn call(&mut self, name: &str, args: Vec<IdedExpr>) -> IdedExpr {
        self.expr(Expr::Call(CallExpr { func_name: name.into(), target: None, args }))
    }

    /// `all` (which begins with true) and `exists` (with false) end at the first item that decides.
    fn quantifier(mut self, range: IdedExpr, first: String, second: String, test: IdedExpr, all: bool) -> IdedExpr {
        let start = self.truth(all);
        let mut going = self.ident(RESULT);
        if !all {
            going = self.call(operators::LOGICAL_NOT, vec![going]);
        }
        let condition = self.call(operators::NOT_STRICTLY_FALSE, vec![going]);
        let known = self.ident(RESULT);
        let operator = if all { operators::LOGICAL_AND } else { operators::LOGICAL_OR };
        let step = self.call(operator, vec![known, test]);
        let result = self.ident(RESULT);
        self.looped(range, (first, second), start, condition, step, result)
    }

    fn exactly_one(mut self, range: IdedExpr, first: String, second: String, test: IdedExpr) -> IdedExpr {
        let start = self.expr(Expr::Literal(LiteralValue::Int(0_i64.into())));
        let condition = self.truth(true);
        let (known, one) = (self.ident(RESULT), self.one());
        let more = self.call(operators::ADD, vec![known, one]);
        let same = self.ident(RESULT);
        let step = self.call(operators::CONDITIONAL, vec![test, more, same]);
        let (known, one) = (self.ident(RESULT), self.one());
        let result = self.call(operators::EQUALS, vec![known, one]);
        self.looped(range, (first, second), start, condition, step, result)
    }

    fn transformed(
        mut self,
        name: &str,
        range: IdedExpr,
        first: String,
        second: String,
        filter: Option<IdedExpr>,
        transform: IdedExpr,
    ) -> IdedExpr {
        let start = match name {
            "transformList" => Expr::List(ListExpr::new(Vec::new())),
            _ => Expr::Map(MapExpr::default()),
        };
        let start = self.expr(start);
        let condition = self.truth(true);
        let known = self.ident(RESULT);
        let mut step = match name {
            "transformList" => {
                let item = self.expr(Expr::List(ListExpr::new(vec![transform])));
                self.call(operators::ADD, vec![known, item])
            }
            "transformMap" => {
                let key = self.ident(&first);
                self.call(INSERT, vec![known, key, transform])
            }
            _ => self.call(INSERT, vec![known, transform]),
        };
        if let Some(filter) = filter {
            let same = self.ident(RESULT);
            step = self.call(operators::CONDITIONAL, vec![filter, step, same]);
        }
        let result = self.ident(RESULT);
        self.looped(range, (first, second), start, condition, step, result)
    }

    fn looped(
        mut self,
        iter_range: IdedExpr,
        (first, second): (String, String),
        accu_init: IdedExpr,
        loop_cond: IdedExpr,
        loop_step: IdedExpr,
        result: IdedExpr,
    ) -> IdedExpr {
        self.expr(Expr::Comprehension(Box::new(ComprehensionExpr {
            iter_range,
            iter_var: first,
            iter_var2: Some(second),
            accu_var: RESULT.into(),
            accu_init,
            loop_cond,
            loop_step,
            result,
        })))
    }
}
