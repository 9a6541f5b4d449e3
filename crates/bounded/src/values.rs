//! Limits for parsed JSON and YAML: size in bytes, depth of nesting, number of values, and the size after YAML aliases are
//! expanded ("billion laughs").

/// The largest body of a request, and the largest object that a patch or a webhook may make of one (upstream:
/// `MaxRequestBodyBytes`).
pub const MAX_REQUEST_BYTES: usize = 3 << 20;

/// The largest object that is stored (etcd: `--max-request-bytes`).
pub const MAX_STORED_BYTES: usize = 3 << 19;

/// How deep objects and lists may nest.
pub const MAX_DEPTH: usize = 120;

/// The number of values that an object counts as, since its map takes more memory than a scalar.
pub const OBJECT_COST: usize = 8;

/// Limits for one document.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the document as it is written.
    pub bytes: usize,
    /// Objects, lists and scalars, those that aliases repeat too. An object counts as [`OBJECT_COST`] of them.
    pub values: usize,
    /// Levels of nesting.
    pub depth: usize,
    /// The bytes of all keys and scalars together, those that aliases repeat too.
    pub expanded: usize,
}

impl Limits {
    /// For bodies of requests.
    pub const REQUEST: Limits =
        Limits { bytes: MAX_REQUEST_BYTES, values: 800_000, depth: MAX_DEPTH, expanded: MAX_REQUEST_BYTES };
    /// For files: manifests, static pods, configuration.
    pub const FILE: Limits = Limits { bytes: 16 << 20, values: 4_000_000, depth: MAX_DEPTH, expanded: 16 << 20 };
}

/// The limit that a document exceeds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    #[error("it is larger than {0} bytes")]
    /// It has more bytes.
    Bytes(usize),
    #[error("it has more than {0} values")]
    /// It has more values.
    Values(usize),
    #[error("it nests more than {0} deep")]
    /// It nests deeper.
    Depth(usize),
    #[error("its aliases make it larger than {0} bytes")]
    /// Its scalars and keys have more bytes after its aliases are expanded.
    Expanded(usize),
}

/// Counts what a parser has read so far against the [`Limits`].
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    values: usize,
    expanded: usize,
}

impl Budget {
    /// A budget for a document of `bytes` bytes.
    ///
    /// # Errors
    /// When the document is too long.
    pub fn new(limits: Limits, bytes: usize) -> Result<Self, Exceeded> {
        if bytes > limits.bytes {
            return Err(Exceeded::Bytes(limits.bytes));
        }
        Ok(Budget { limits, values: 0, expanded: 0 })
    }

    /// Counts values and the bytes in them.
    ///
    /// # Errors
    /// When there are too many of either; [`Exceeded`] says which.
    pub fn spend(&mut self, values: usize, bytes: usize) -> Result<(), Exceeded> {
        self.values = self.values.saturating_add(values);
        self.expanded = self.expanded.saturating_add(bytes);
        if self.values > self.limits.values {
            return Err(Exceeded::Values(self.limits.values));
        }
        if self.expanded > self.limits.expanded {
            return Err(Exceeded::Expanded(self.limits.expanded));
        }
        Ok(())
    }

    /// Checks a level of nesting.
    ///
    /// # Errors
    /// When `depth` is above the limit.
    pub fn nest(&self, depth: usize) -> Result<(), Exceeded> {
        if depth > self.limits.depth { Err(Exceeded::Depth(self.limits.depth)) } else { Ok(()) }
    }
}

/// Refuses an object that is too large to be stored.
///
/// # Errors
/// When it has more than [`MAX_STORED_BYTES`].
pub fn check_stored(value: &serde_json::Value) -> Result<(), Exceeded> {
    if Measure::of(value).bytes > MAX_STORED_BYTES { Err(Exceeded::Bytes(MAX_STORED_BYTES)) } else { Ok(()) }
}

/// The size of a value: how many values are in it, how many bytes they have, and how deep they nest. It is measured without
/// recursion, as the value may be deeper than the stack allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measure {
    /// Values, counted as for [`Limits::values`].
    pub values: usize,
    /// About the bytes of its JSON.
    pub bytes: usize,
    /// Levels of nesting.
    pub depth: usize,
}

impl Measure {
    fn add(&mut self, values: usize, bytes: usize) {
        self.values = self.values.saturating_add(values);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Measures a value.
    pub fn of(value: &serde_json::Value) -> Self {
        use serde_json::Value;
        let mut measure = Measure::default();
        let mut open = vec![(value, 1usize)];
        while let Some((value, depth)) = open.pop() {
            measure.add(1, 0);
            match value {
                Value::String(text) => measure.add(0, text.len().saturating_add(2)),
                Value::Array(items) => {
                    measure.depth = measure.depth.max(depth);
                    measure.add(0, items.len().saturating_add(2));
                    open.extend(items.iter().map(|item| (item, depth.saturating_add(1))));
                }
                Value::Object(map) => {
                    measure.add(OBJECT_COST - 1, 2);
                    measure.depth = measure.depth.max(depth);
                    for (key, value) in map {
                        measure.add(0, key.len().saturating_add(4));
                        open.push((value, depth.saturating_add(1)));
                    }
                }
                // Longer numbers are rare, and no longer than this by much.
                Value::Null | Value::Bool(_) | Value::Number(_) => measure.add(0, 5),
            }
        }
        measure
    }
}

/// Refuses the result of a patch or a webhook if it is larger or nests deeper than the body of a request may.
///
/// # Errors
/// The limit that is exceeded.
pub fn check_result(value: &serde_json::Value) -> Result<(), Exceeded> {
    let measure = Measure::of(value);
    if measure.depth > MAX_DEPTH {
        return Err(Exceeded::Depth(MAX_DEPTH));
    }
    if measure.bytes > MAX_REQUEST_BYTES {
        return Err(Exceeded::Bytes(MAX_REQUEST_BYTES));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_is_measured_without_recursion() {
        let measure = Measure::of(&json!({"a": [1, "bc"], "d": {}}));
        assert_eq!((measure.values, measure.depth), (3 + 2 * OBJECT_COST, 2));
        let mut deep = json!(1);
        for _ in 0..100_000 {
            deep = serde_json::Value::Array(vec![deep]);
        }
        assert_eq!(Measure::of(&deep).depth, 100_000);
        assert_eq!(check_result(&deep), Err(Exceeded::Depth(MAX_DEPTH)));
        // It is taken apart by hand, as dropping it would use up the stack.
        while let serde_json::Value::Array(mut items) = deep {
            deep = items.pop().unwrap_or_default();
        }
    }

    #[test]
    fn results_are_bound_in_size() {
        assert_eq!(check_result(&json!({"a": "x".repeat(MAX_REQUEST_BYTES)})), Err(Exceeded::Bytes(MAX_REQUEST_BYTES)));
        assert_eq!(check_result(&json!({"a": "x".repeat(1000)})), Ok(()));
    }
}
