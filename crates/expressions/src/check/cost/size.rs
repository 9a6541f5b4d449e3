//! Sizes of values, and prices that grow with them.

/// What looking at one character or byte costs.
pub(super) const TRAVERSAL: f64 = 0.1;
/// What one character of a regular expression costs.
pub(super) const PATTERN: f64 = 0.25;

/// The fewest and the most elements of a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Size {
    pub least: u64,
    pub most: u64,
}

impl Size {
    pub const UNKNOWN: Size = Size { least: 0, most: u64::MAX };

    pub fn fixed(size: u64) -> Self {
        Size { least: size, most: size }
    }

    pub fn up_to(most: u64) -> Self {
        Size { least: 0, most }
    }

    pub fn plus(self, other: Size) -> Self {
        Size { least: self.least.saturating_add(other.least), most: self.most.saturating_add(other.most) }
    }

    pub fn times(self, other: Size) -> Self {
        Size { least: self.least.saturating_mul(other.least), most: self.most.saturating_mul(other.most) }
    }

    pub fn or(self, other: Size) -> Self {
        Size { least: self.least.min(other.least), most: self.most.max(other.most) }
    }

    /// What going through it costs at most.
    pub fn cost(self, factor: f64) -> u64 {
        scale(self.most, factor)
    }
}

/// The sizes of what a list or map holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub is_list: bool,
    pub key: Size,
    pub value: Size,
}

impl Entry {
    pub fn or(self, other: Entry) -> Self {
        Entry { is_list: self.is_list, key: self.key.or(other.key), value: self.value.or(other.value) }
    }
}

/// What a call costs beside its arguments, and how large its result is, if that is known.
pub(super) struct Price {
    pub cost: u64,
    pub size: Option<Size>,
}

impl Price {
    pub fn of(cost: u64) -> Self {
        Price { cost, size: None }
    }

    pub fn with(cost: u64, size: Size) -> Self {
        Price { cost, size: Some(size) }
    }
}

pub(super) fn scale(size: u64, factor: f64) -> u64 {
    // A float that doesn't fit becomes the greatest integer.
    (size as f64 * factor).ceil() as u64
}
