//! Costs, depth and size of expressions.

use super::*;

/// What a rule costs at most by upstream's model, reckoned by hand from its prices.
#[test]
fn costs_are_estimated_to_the_number() {
    let schema = json!({"type": "object", "properties": {
        "n": {"type": "integer"}, "m": {"type": "integer"}, "s": {"type": "string"}, "t": {"type": "string", "maxLength": 10},
        "e": {"type": "string", "enum": ["a", "bcd"]}, "d": {"type": "string", "format": "duration"},
        "l": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 5}},
        "free": {"type": "array", "items": {"type": "string", "maxLength": 5}},
        "k": {"type": "object", "maxProperties": 4, "additionalProperties": {"type": "string", "maxLength": 5}}}});
    let cost = |source: &str| {
        let rule = Rule { is_resource: false, optional_old: false, wanted: Wanted::Truth };
        Expression::compile_rule(source, &schema, &rule).map(|(_, cost)| cost)
    };
    for (source, want) in [
        // A name and a field are one each; a presence costs what its operand does.
        ("has(self.s)", 1),
        ("has(self.s) || has(self.t)", 2),
        // Numbers of a schema have no size, those that are reckoned have one.
        ("self.n == 1", 2),
        ("self.n + self.m == 2", 6),
        ("self.s == 'abc'", 3),
        ("self.s == self.t", 8),
        ("self.e == self.s", 5),
        ("self.s.startsWith('abc')", 3),
        // 40 bytes of ten characters: (41 / 10) * (8 / 4).
        ("self.t.matches('^[a-z]+$')", 12),
        ("self.t.contains('abcdefghijk')", 10),
        ("self.t + self.t == 'x'", 13),
        ("size(self.s) > 1", 4),
        ("self.n > 1 ? self.s == 'a' : true", 6),
        // One for each text, and what looking at it costs.
        ("self.l.isSorted()", 32),
        ("'a' in self.l", 12),
        ("[1, 2].size() == 2", 12),
        ("{'a': 1}.size() == 1", 32),
        ("self.l.all(x, x == 'a')", 53),
        ("self.l.exists(i, x, x == 'a' && i == 1)", 83),
        // Keys of maps have no size.
        ("self.k.all(k, k.contains('*'))", 19),
        ("self.k.all(k, self.k[k] == 'a')", 35),
        ("self.l.map(x, x + 'b').size() == 1", 175),
        ("isURL(self.s)", 3),
        ("isIP(self.t)", 6),
        ("duration(self.s) > duration('1s')", 5),
        ("quantity(self.t).isGreaterThan(quantity('1'))", 8),
        ("self.d == duration('1s')", 4),
        ("dyn(self.n) == 'a'", 3),
        ("sets.contains(self.l, ['a'])", 23),
        ("format.dns1123Label().validate(self.t).hasValue()", 132),
        ("self.l.sort() == self.l", 226),
        ("optional.of(self.n).hasValue()", 4),
    ] {
        assert_eq!(cost(source), Ok(want), "{source}");
    }
    // What has no limit is bounded by the request: 3 MiB, and what the smallest items take of it.
    assert_eq!(cost("self.free.all(x, true)"), Ok(3 + (3 * 1024 * 1024 - 2) / 3 * 3));
}

#[test]
fn chains_and_nests_are_bounded_before_they_are_parsed() {
    let deep = 20_000;
    let chains = [
        format!("1{}", "+1".repeat(deep)),
        format!("self{}", ".a".repeat(deep)),
        format!("self{}", "[0]".repeat(deep / 2)),
        format!("{}true", "!".repeat(deep)),
        format!("{}1", "-".repeat(deep)),
        format!("{}1{}", "(".repeat(deep), ")".repeat(deep)),
        format!("{}1{}", "[".repeat(deep), "]".repeat(deep)),
        format!("true{}", " ? true : true".repeat(4000)),
        format!("1{}", " in [1]".repeat(5000)),
        format!("self{}", ".size()".repeat(5000)),
        format!("'{}", "a+".repeat(deep)),
        format!("'\\q'{}", "+1".repeat(deep)),
        format!("r'\\'{}'", "+1".repeat(deep)),
        format!("1r'\\'{}'", "+1".repeat(deep)),
        format!("rb'\\q{}'", "+1".repeat(deep)),
        format!("a.`b//c`{}", ".a".repeat(deep)),
        "self.all(x, ".repeat(4000),
    ];
    for source in &chains {
        let found = Expression::compile(source, &["self", "a"]);
        assert!(found.is_err(), "{}…", &source[..20]);
    }
    // What people write is not deep: many conditions, long texts with any signs, long lists.
    for source in [
        vec!["has(self.a) && self.a != 'b.c.d+e'"; 500].join(" || "),
        format!("'{}' == 'a'", "+.(!".repeat(2000)),
        format!("1 in [{}]", vec!["1"; 5000].join(", ")),
        format!("'a'{} != ''", " + 'b'".repeat(100)),
        format!("// {}\ntrue", "+1".repeat(2000)),
    ] {
        let expression = Expression::compile(&source, &["self"]).unwrap_or_else(|e| panic!("{}…: {e}", &source[..20]));
        // It is evaluated and dropped on a stack of the usual size.
        let this = json!({"a": "b"});
        let run = std::thread::Builder::new().stack_size(1 << 20).spawn(move || {
            let mut scope = Scope::default();
            scope.bind("self", &this);
            let truth = expression.is_true(&scope, &Budget::new(Budget::REQUEST)).is_ok();
            drop(scope);
            (truth, drop(expression)).0
        });
        assert!(run.unwrap().join().unwrap());
    }
}

#[test]
fn the_deepest_expression_runs_on_a_small_stack() {
    for source in [format!("1{} > 0", "+1".repeat(200)), format!("{}true", "!".repeat(90))] {
        let expression = Expression::compile(&source, &[]).unwrap_or_else(|e| panic!("{e}"));
        let run = std::thread::Builder::new()
            .stack_size(1 << 20)
            .spawn(move || expression.is_true(&Scope::default(), &Budget::new(Budget::REQUEST)));
        assert_eq!(run.unwrap().join().unwrap(), Ok(true));
    }
}

#[test]
fn large_results_are_paid_for_before_they_are_made() {
    let this = json!({"long": "a".repeat(1_000_000), "list": vec!["a"; 100_000]});
    for source in [
        "self.long.replace('', self.long).size() > 0",
        "self.list.join(self.long).size() > 0",
        "lists.range(1000000000).size() > 0",
        "self.list.map(x, self.long + x).size() > 0",
        "self.list.transformMap(i, x, self.long + x).size() > 0",
        "self.list.exists(x, self.long.matches('(a*)*b'))",
        "self.list.sort().size() > 0",
    ] {
        assert_eq!(evaluate(source, &this), Err(Failure::Call.to_string()), "{source}");
    }
}

proptest! {
    /// Whatever somebody writes: an answer or an error, never a crash.
    #[test]
    fn anything_can_be_compiled_and_evaluated(pieces in proptest::collection::vec(prop::sample::select(vec![
        "self", ".a", ".list", "(", ")", "[", "]", "[0]", "{", "}", "?", ":", "&&", "||", "!", "-", "+", "*", "/", "%",
        "'x'", "\"", "1", "1u", "1.5", "in ", "true", "null", ",", "==", "<", "has(self.a)", ".all(x, ", ".map(x, ",
        ".size()", "9223372036854775807", "quantity(", "ip(", "cidr('10.0.0.0/8')", "duration('1h')", ".matches('(')",
        "timestamp(", ".substring(", ".format([", "math.abs(", "Object{", "a:", ".?a", "[?0]", ".sum()", "b'a'", "int(",
    ]), 0..14)) {
        let this = json!({"a": -9223372036854775808_i64, "list": [1, "x", null, 1.5]});
        let _ = evaluate(&pieces.concat(), &this);
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}, "list": {"type": "array", "items": {"type": "string"}}}});
        let _ = told(&pieces.concat(), &schema);
    }
}
