//! Comparisons of lists whose order means nothing (`x-kubernetes-list-type: set` and `map`).

use cel::IdedExpr;
use cel::common::ast::{CallExpr, EntryExpr, Expr, operators};

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
