//! Bounds of what is read from others: how large it may be, how deep it may nest, how many values it may hold, and how
//! large it may become where it can say more than it writes (aliases of YAML).

/// The largest body of a request, and the largest object that a patch or a webhook may make of one (upstream:
/// `MaxRequestBodyBytes`).
pub const REQUEST_BYTES: usize = 3 << 20;

/// The largest object that is kept (etcd: `--max-request-bytes`).
pub const STORED_BYTES: usize = 3 << 19;

/// How deep objects and lists may nest.
pub const DEPTH: usize = 120;

/// What an object counts, as it takes more memory than other values.
pub const OBJECT: usize = 8;

/// What a text may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub bytes: usize,
    /// Objects, lists and scalars, those that aliases repeat too. An object counts as [`OBJECT`] of them.
    pub values: usize,
    pub depth: usize,
    /// The bytes of all keys and scalars together, those that aliases repeat too.
    pub expanded: usize,
}

impl Limits {
    /// For bodies of requests.
    pub const REQUEST: Limits = Limits { bytes: REQUEST_BYTES, values: 800_000, depth: DEPTH, expanded: REQUEST_BYTES };
    /// For files: manifests, static pods, configuration.
    pub const FILE: Limits = Limits { bytes: 16 << 20, values: 4_000_000, depth: DEPTH, expanded: 16 << 20 };
}

/// Why something isn't read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    #[error("it is larger than {0} bytes")]
    Bytes(usize),
    #[error("it has more than {0} values")]
    Values(usize),
    #[error("it nests more than {0} deep")]
    Depth(usize),
    #[error("its aliases make it larger than {0} bytes")]
    Expanded(usize),
}

/// What of the limits is used up.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    values: usize,
    expanded: usize,
}

impl Budget {
    /// # Errors
    /// When the text is too long.
    pub fn new(limits: Limits, bytes: usize) -> Result<Self, Exceeded> {
        if bytes > limits.bytes {
            return Err(Exceeded::Bytes(limits.bytes));
        }
        Ok(Budget { limits, values: 0, expanded: 0 })
    }

    /// Counts values and the bytes in them.
    ///
    /// # Errors
    /// When there are too many of either.
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

    /// # Errors
    /// When `depth` is too much.
    pub fn nest(&self, depth: usize) -> Result<(), Exceeded> {
        if depth > self.limits.depth { Err(Exceeded::Depth(self.limits.depth)) } else { Ok(()) }
    }
}

/// Refuses an object that is too large to be kept.
///
/// # Errors
/// When it is.
pub fn stored(value: &serde_json::Value) -> Result<(), Exceeded> {
    if Measure::of(value).bytes > STORED_BYTES { Err(Exceeded::Bytes(STORED_BYTES)) } else { Ok(()) }
}

/// What a value costs: how many values are in it, how many bytes they have, and how deep they nest. Nothing here calls
/// itself, as the value may be deeper than the stack allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measure {
    pub values: usize,
    pub bytes: usize,
    pub depth: usize,
}

impl Measure {
    fn add(&mut self, values: usize, bytes: usize) {
        self.values = self.values.saturating_add(values);
        self.bytes = self.bytes.saturating_add(bytes);
    }

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
                    measure.add(OBJECT - 1, 2);
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

/// Refuses what a patch or a webhook has made of an object if it is larger or nests deeper than a body of a request may.
///
/// # Errors
/// Which bound is exceeded.
pub fn result(value: &serde_json::Value) -> Result<(), Exceeded> {
    let measure = Measure::of(value);
    if measure.depth > DEPTH {
        return Err(Exceeded::Depth(DEPTH));
    }
    if measure.bytes > REQUEST_BYTES {
        return Err(Exceeded::Bytes(REQUEST_BYTES));
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
        assert_eq!((measure.values, measure.depth), (3 + 2 * OBJECT, 2));
        let mut deep = json!(1);
        for _ in 0..100_000 {
            deep = serde_json::Value::Array(vec![deep]);
        }
        assert_eq!(Measure::of(&deep).depth, 100_000);
        assert_eq!(result(&deep), Err(Exceeded::Depth(DEPTH)));
        // It is taken apart by hand, as dropping it would use up the stack.
        while let serde_json::Value::Array(mut items) = deep {
            deep = items.pop().unwrap_or_default();
        }
    }

    #[test]
    fn results_are_bound_in_size() {
        assert_eq!(result(&json!({"a": "x".repeat(REQUEST_BYTES)})), Err(Exceeded::Bytes(REQUEST_BYTES)));
        assert_eq!(result(&json!({"a": "x".repeat(1000)})), Ok(()));
    }
}
