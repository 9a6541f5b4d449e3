//! The functions that expressions may call, with their types: the table `declarations.txt`, and families of functions
//! that exist once for each of several types. They are those of upstream's base environment (`cel/environment/base.go`
//! of v1.37) and its admission policies.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::types::Type;

/// One signature of a function.
#[derive(Debug)]
pub(crate) struct Overload {
    pub id: String,
    pub is_member: bool,
    /// With what the function is called on first.
    pub arguments: Vec<Type<'static>>,
    pub result: Type<'static>,
    /// How many type parameters it has.
    pub params: u32,
}

static DECLARED: LazyLock<HashMap<String, Vec<Overload>>> = LazyLock::new(declare);

/// The signatures of a function, or `None` if there is no such function.
pub(crate) fn overloads(name: &str) -> Option<&'static [Overload]> {
    DECLARED.get(name).map(Vec::as_slice)
}

/// Whether a name is that of a function.
pub(crate) fn is_function(name: &str) -> bool {
    DECLARED.contains_key(name)
}

fn declare() -> HashMap<String, Vec<Overload>> {
    let mut functions = HashMap::new();
    let table = include_str!("declarations.txt");
    table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).for_each(|line| add(&mut functions, line));
    comparisons(&mut functions);
    of_comparable_lists(&mut functions);
    parts_of_times(&mut functions);
    for name in crate::library::FORMATS {
        add(&mut functions, &format!("format.{name} format.{name} - - kubernetes.NamedFormat"));
    }
    functions
}

/// Adds a line of the table. A line that can't be read leaves its function out, which the tests of the table notice.
fn add(functions: &mut HashMap<String, Vec<Overload>>, line: &str) {
    let parts: Vec<&str> = line.split_whitespace().collect();
    let [id, name, target, arguments, result] = parts.as_slice() else { return };
    let mut reader = Reader::default();
    let targets = [*target].into_iter().filter(|t| *t != "-");
    let listed = arguments.split(',').filter(|a| *a != "-");
    let arguments = targets.chain(listed).map(|text| reader.read(text)).collect();
    let result = reader.read(result);
    let overload = Overload {
        id: (*id).into(),
        is_member: *target != "-",
        arguments,
        result,
        params: reader.letters.len() as u32,
    };
    functions.entry((*name).to_string()).or_default().push(overload);
}

/// Reads types; letters become parameters in the order of their appearance.
#[derive(Default)]
struct Reader {
    letters: Vec<char>,
}

impl Reader {
    fn read(&mut self, text: &str) -> Type<'static> {
        if let Some(of) = text.strip_prefix('?') {
            return Type::optional(self.read(of));
        }
        if let Some(of) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            return Type::list(self.read(of));
        }
        if let Some((key, of)) =
            text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).and_then(|t| t.split_once(':'))
        {
            return Type::map(self.read(key), self.read(of));
        }
        match text {
            "dyn" => Type::Dyn,
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "bytes" => Type::Bytes,
            "string" => Type::Text,
            "timestamp" => Type::Time,
            "duration" => Type::Duration,
            "type" => Type::Type,
            letter if letter.len() == 1 => self.param(letter.chars().next().unwrap_or('A')),
            name => OPAQUE.iter().find(|known| **known == name).map_or(Type::Dyn, |known| Type::Opaque(known)),
        }
    }

    fn param(&mut self, letter: char) -> Type<'static> {
        let at = self.letters.iter().position(|known| *known == letter).unwrap_or_else(|| {
            self.letters.push(letter);
            self.letters.len() - 1
        });
        Type::Param(at as u32)
    }
}

const OPAQUE: [&str; 11] = [
    "net.IP",
    "net.CIDR",
    "kubernetes.URL",
    "kubernetes.Quantity",
    "kubernetes.Semver",
    "kubernetes.NamedFormat",
    "kubernetes.authorization.Authorizer",
    "kubernetes.authorization.PathCheck",
    "kubernetes.authorization.GroupCheck",
    "kubernetes.authorization.ResourceCheck",
    "kubernetes.authorization.Decision",
];

/// Numbers may be compared across their types.
fn comparisons(functions: &mut HashMap<String, Vec<Overload>>) {
    let alike = [
        ("bool", "bool"),
        ("int64", "int"),
        ("uint64", "uint"),
        ("double", "double"),
        ("string", "string"),
        ("bytes", "bytes"),
        ("timestamp", "timestamp"),
        ("duration", "duration"),
    ];
    let numbers = [("int64", "int"), ("uint64", "uint"), ("double", "double")];
    for (id, name) in [("less", "_<_"), ("less_equals", "_<=_"), ("greater", "_>_"), ("greater_equals", "_>=_")] {
        for (of, kind) in alike {
            add(functions, &format!("{id}_{of} {name} - {kind},{kind} bool"));
        }
        for (a, left) in numbers {
            for (b, right) in numbers.into_iter().filter(|(b, _)| *b != a) {
                add(functions, &format!("{id}_{a}_{b} {name} - {left},{right} bool"));
            }
        }
    }
}

fn of_comparable_lists(functions: &mut HashMap<String, Vec<Overload>>) {
    for of in ["int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes"] {
        add(functions, &format!("list_{of}_is_sorted_bool isSorted [{of}] - bool"));
        add(functions, &format!("list_{of}_max_{of} max [{of}] - {of}"));
        add(functions, &format!("list_{of}_min_{of} min [{of}] - {of}"));
        add(functions, &format!("list_{of}_sort sort [{of}] - [{of}]"));
        add(functions, &format!("list_{of}_sortByAssociatedKeys @sortByAssociatedKeys [A] [{of}] [A]"));
    }
}

fn parts_of_times(functions: &mut HashMap<String, Vec<Overload>>) {
    for name in [
        "getFullYear",
        "getMonth",
        "getDate",
        "getDayOfMonth",
        "getDayOfWeek",
        "getDayOfYear",
        "getHours",
        "getMinutes",
        "getSeconds",
        "getMilliseconds",
    ] {
        add(functions, &format!("timestamp_{name} {name} timestamp - int"));
        add(functions, &format!("timestamp_{name}_with_tz {name} timestamp string int"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_read() {
        let table = include_str!("declarations.txt");
        for line in table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let parts: Vec<&str> = line.split_whitespace().collect();
            let known = overloads(parts[1]).unwrap_or_default();
            let found = known.iter().find(|o| o.id == parts[0]).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(found.is_member, parts[2] != "-", "{line}");
        }
        // A type that isn't known would have been taken for `dyn`.
        let dynamic = |name: &str| overloads(name).unwrap_or_default().iter().any(|o| matches!(o.result, Type::Dyn));
        let mut names: Vec<&str> = DECLARED.keys().map(String::as_str).filter(|name| dynamic(name)).collect();
        names.sort_unstable();
        assert_eq!(names, ["dyn"]);
    }
}
