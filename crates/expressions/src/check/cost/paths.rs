//! Where a value comes from in the schema, and how large it is.

use std::sync::Arc;

use cel::IdedExpr;
use cel::common::ast::{Expr, LiteralValue};

use super::size::{Entry, Size};
use super::{Coster, Local};
use crate::check::schema::Node;
use crate::check::types::Type;
use crate::value::is_reserved;

/// A way from a variable to a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Name(String),
    Items,
    Values,
    Keys,
    Indices,
}

pub(super) type Path = Arc<Vec<Step>>;

impl<'s> Coster<'s> {
    pub(super) fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| local.name == name)
    }

    pub(super) fn path(&self, of: &IdedExpr) -> Path {
        if let Expr::Ident(name) = &of.expr
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&of.id).cloned().unwrap_or_default()
    }

    pub(super) fn below(&self, of: &IdedExpr, step: Step) -> Path {
        let mut path = self.path(of).as_ref().clone();
        path.push(step);
        Arc::new(path)
    }

    /// The schema at the end of a way; its first step is the variable.
    pub(super) fn node(&self, path: &[Step]) -> Option<Node<'s>> {
        let (_, steps) = path.split_first()?;
        let mut at = self.root;
        for step in steps {
            at = match step {
                Step::Items | Step::Values => at.items().or_else(|| at.values())?,
                Step::Keys | Step::Indices => return None,
                // Words that the language reserves are known by their escaped names here.
                Step::Name(name) if is_reserved(name) => return None,
                Step::Name(name) => at.field(name)?,
            };
        }
        Some(at)
    }

    pub(super) fn size_or_unknown(&mut self, of: &IdedExpr) -> Size {
        self.size(of).unwrap_or(Size::UNKNOWN)
    }

    pub(super) fn size(&mut self, of: &IdedExpr) -> Option<Size> {
        self.size_of(of.id, Some(of))
    }

    pub(super) fn size_of(&mut self, id: u64, of: Option<&IdedExpr>) -> Option<Size> {
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
    pub(super) fn estimate(&self, path: &[Step]) -> Option<Size> {
        if let [before @ .., Step::Keys] = path
            && !before.is_empty()
        {
            return self.node(before).and_then(|node| node.values()).map(|_| Size::up_to(0));
        }
        self.node(path).map(|node| Size::up_to(self.sizes.most(&node)))
    }

    pub(super) fn set(&mut self, at: u64, size: Option<Size>) {
        if let Some(size) = size {
            self.known.insert(at, size);
        }
    }

    pub(super) fn entry(&self, of: &IdedExpr) -> Option<Entry> {
        if let Some(known) = self.entries.get(&of.id) {
            return Some(*known);
        }
        match &of.expr {
            Expr::Ident(name) => self.local(name).and_then(|local| local.entry),
            _ => None,
        }
    }

    pub(super) fn copy(&mut self, to: u64, from: &IdedExpr) {
        let size = self.size(from);
        self.set(to, size);
        if let Some(entry) = self.entry(from) {
            self.entries.insert(to, entry);
        }
    }
}

fn of_literal(literal: &LiteralValue) -> u64 {
    match literal {
        LiteralValue::String(text) => text.inner().chars().count() as u64,
        LiteralValue::Bytes(bytes) => bytes.inner().len() as u64,
        _ => 1,
    }
}
