mod bounds;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn evaluate(source: &str, this: &Value) -> Result<Value, String> {
    let expression = Expression::compile(source, &["self", "authorizer"])?;
    let mut scope = Scope::default();
    scope.bind("self", this);
    scope.bind_authorizer(
        "authorizer",
        Authorizer::new(|a| match a.verb == "get" && a.resource == "pods" {
            true => Ok(()),
            false => Err("no".into()),
        }),
    );
    expression.json(&scope, &Budget::new(Budget::REQUEST)).map_err(|e| e.to_string())
}

/// Expressions that are true of `{"a": 1, "list": [3, 1, 2], "map": {"x": "y"}, "text": "hello"}`.
const TRUE: &str = r#"
self.a == 1
self.a + 1 == 2
has(self.a) && !has(self.b)
self.?b.orValue(7) == 7
self.list.all(x, x > 0)
self.list.exists(x, x == 3)
self.list.map(x, x * 2) == [6, 2, 4]
self.list.filter(x, x > 1).size() == 2
self.map.all(k, k == 'x')
'x' in self.map
2 in self.list
self.list.sum() == 6
self.list.min() == 1 && self.list.max() == 3
!self.list.isSorted()
self.list.indexOf(2) == 2
self.text.startsWith('he') && self.text.matches('^h.*o$')
self.text.upperAscii() == 'HELLO'
self.text.find('l+') == 'll'
self.text.findAll('l').size() == 2
self.text.substring(1, 3) == 'el'
'a-b'.split('-') == ['a', 'b']
['a', 'b'].join(',') == 'a,b'
duration('1h') > duration('59m')
timestamp('2026-01-01T00:00:00Z') < timestamp('2026-01-02T00:00:00Z')
quantity('1Gi').isGreaterThan(quantity('1G'))
quantity('1500m').add(quantity('500m')).asInteger() == 2
!isQuantity('1Gx')
ip('10.0.0.1').family() == 4 && ip('::1').isLoopback()
!isIP('10.0.0.256')
cidr('10.0.0.0/8').containsIP('10.1.2.3')
cidr('10.0.0.0/8').containsCIDR(cidr('10.1.0.0/16'))
cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8')
url('https://example.com:8443/a?b=c').getHost() == 'example.com:8443'
url('https://example.com/a?b=c').getQuery()['b'] == ['c']
isURL('/path') && !isURL('no url')
semver('1.2.3').isLessThan(semver('1.10.0'))
sets.contains([1, 2, 3], [1])
sets.equivalent([1, 1], [1])
type(self.a) == int
string(self.a) == '1'
authorizer.group('').resource('pods').namespace('x').check('get').allowed()
!authorizer.resource('pods').check('delete').allowed()
1 / 0 == 1 || true
[1, 2, 3].exists_one(x, x == 2)
optional.none().orValue(1) == 1
(self.a == 1 ? 'yes' : 'no') == 'yes'
'%s is %d'.format(['a', 1]) == 'a is 1'
self.list.map(x, self.list.map(y, x * y)).size() == 3
self.list.all(i, v, i < 3 && v > 0)
self.map.all(k, v, k != v)
self.list.exists(i, v, i == 1 && v == 1)
self.list.existsOne(i, v, v > 2)
self.list.exists_one(i, v, i == 7) == false
self.list.transformList(i, v, i * v) == [0, 1, 4]
self.list.transformList(i, v, v > 1, v) == [3, 2]
self.map.transformMap(k, v, v + '!') == {'x': 'y!'}
self.list.transformMap(i, v, v > 1, v) == {0: 3, 2: 2}
self.map.transformMapEntry(k, v, {v: k}) == {'y': 'x'}
self.map.transformMap(k, v, self.list.all(k, k > 0) && v == 'y')['x']
self.list.all(i, v, self.list.exists(j, w, j == i && w == v))
!format.dns1123Label().validate('a-b').hasValue()
format.dns1123Label().validate('A').value().size() == 1
format.named('qualifiedName').hasValue() && !format.named('nonsense').hasValue()
!format.uuid().validate('123e4567-e89b-12d3-a456-426614174000').hasValue()
format.date().validate('2026-13-01').hasValue()
self.?a.optMap(x, x + 1).orValue(0) == 2
self.?b.optFlatMap(x, optional.of(x)).hasValue() == false
[1, 2].first().value() == 1 && [1, 2].last().value() == 2
optional.unwrap([optional.of(1), optional.none()]) == [1]
[optional.of(1), optional.none()].unwrapOpt() == [1]
self.list.includes(3) && !self.list.includes(4)
[3, 1, 2].sort() == [1, 2, 3] && [1, 1].distinct() == [1] && [1, 2].reverse() == [2, 1]
[[1], [2, 3]].flatten() == [1, 2, 3] && lists.range(3) == [0, 1, 2] && [1, 2, 3].slice(1, 2) == [2]
[3, 1, 2].sortBy(x, -x) == [3, 2, 1]
sign(quantity('-1')) == -1
isSemver('v1.2', true) && semver('v01.2', true).minor() == 2
!isIP('::ffff:10.0.0.1')
'a,b,c'.split(',', 2) == ['a', 'b,c'] && 'aaa'.replace('a', 'b', 2) == 'bba'
type(timestamp('2026-01-01T00:00:00Z')) == google.protobuf.Timestamp
'abc'.contains('b') && 'abc'.charAt(1) == 'b' && strings.quote('a') == '"a"'
"#;

#[test]
fn the_language_and_its_libraries() {
    let this = json!({"a": 1, "list": [3, 1, 2], "map": {"x": "y"}, "text": "hello"});
    for source in TRUE.lines().filter(|l| !l.is_empty()) {
        assert_eq!(evaluate(source, &this), Ok(json!(true)), "{source}");
    }
}

#[test]
fn mistakes_are_told_when_an_expression_is_read() {
    for (source, why) in [
        ("", "is empty"),
        ("self.", "Syntax error"),
        ("other.x", "undeclared reference to 'other'"),
        ("self.nosuch()", "undeclared reference to 'nosuch'"),
        ("self.list.all(self)", "undeclared reference to 'all'"),
        ("Foo{a: 1}", "undeclared reference to 'Foo'"),
    ] {
        let found = Expression::compile(source, &["self"]).map(|_| ());
        assert!(found.as_ref().is_err_and(|e| e.contains(why)), "{source:?}: {found:?}");
    }
}

#[test]
fn an_expression_that_costs_too_much_is_stopped() {
    let this = json!((0..2000).collect::<Vec<_>>());
    let dear = "self.all(a, self.all(b, self.all(c, a + b + c >= 0)))";
    assert_eq!(evaluate(dear, &this), Err(Failure::Call.to_string()));
    // Not even where an error is swallowed.
    let swallowed = format!("true || {dear} || self.exists(x, {dear} || true)");
    assert_eq!(evaluate(&swallowed, &this), Ok(json!(true)));
    assert_eq!(evaluate(&format!("self.exists(x, {dear}) || true"), &this), Err(Failure::Budget.to_string()));
    assert!(evaluate("self.all(a, self.all(b, a + b >= 0))", &json!((0..100).collect::<Vec<_>>())).is_ok());
}

#[test]
fn a_schema_gives_types_and_names() {
    let schema = json!({"type": "object", "properties": {
        "ratio": {"type": "number"}, "when": {"type": "string", "format": "date-time"},
        "my-name": {"type": "string"}, "for": {"type": "string", "format": "duration"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}}}});
    let value = json!({"ratio": 1, "when": "2026-01-01T00:00:00Z", "my-name": "n", "for": "90s",
        "labels": {"a-b": "c"}, "hidden": 1});
    for source in [
        "self.ratio == 1.0",
        "self.when.getFullYear() == 2026",
        "self.my__dash__name == 'n'",
        "self.__for__ == duration('1m30s')",
        "self.labels['a-b'] == 'c'",
        "!has(self.hidden)",
    ] {
        let expression = Expression::compile(source, &["self"]).unwrap();
        let mut scope = Scope::default();
        scope.bind_typed("self", &value, &schema);
        assert_eq!(expression.is_true(&scope, &Budget::new(1000)), Ok(true), "{source}");
    }
}

/// A rule about a schema, and what is wrong with it or its cost in words.
fn told(source: &str, schema: &Value) -> String {
    let rule = Rule { is_resource: true, optional_old: false, wanted: Wanted::Truth };
    match Expression::compile_rule(source, schema, &rule) {
        Ok((_, cost)) if cost > 10_000_000 => "too dear".into(),
        Ok(_) => "fine".into(),
        Err(why) => why,
    }
}

#[test]
fn rules_are_checked_against_their_schema() {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "replicas": {"type": "integer"}, "ratio": {"type": "number"}, "on": {"type": "boolean"},
            "name": {"type": "string", "maxLength": 20}, "when": {"type": "string", "format": "date-time"},
            "port": {"x-kubernetes-int-or-string": true}, "long": {"type": "string"},
            "few": {"type": "array", "maxItems": 5, "items": {"type": "object", "properties": {"a-b": {"type": "string"}}}},
            "many": {"type": "array", "items": {"type": "integer"}},
            "texts": {"type": "array", "items": {"type": "string"}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}});
    let fine = "
        self.spec.replicas > 0 && self.spec.ratio < 1.5
        self.metadata.name.startsWith('a') && self.kind == 'X'
        has(self.spec.name) ? self.spec.name.size() <= 10 : true
        self.spec.when > timestamp('2026-01-01T00:00:00Z')
        self.spec.port == 80 || self.spec.port == 'http'
        self.spec.few.all(x, x.a__dash__b != '')
        self.spec.few.map(x, x.a__dash__b).exists(t, t == 'a')
        self.spec.many.all(n, n > 0)
        self.spec.labels.all(k, self.spec.labels[k] != '')
        'a' in self.spec.labels
        oldSelf.spec.replicas <= self.spec.replicas
        self.spec.when == null
        self.spec.free == null
        quantity(self.spec.name).isGreaterThan(quantity('1'))
        self.spec.few.all(i, x, i < 5 && x.a__dash__b != '')
        self.spec.few.transformMap(i, x, i + 1).size() > 0
        self.spec.replicas < 1.5
        self.spec.?name.orValue('') == ''
        [1, 2].exists(x, x == self.spec.replicas)
        self.spec.few.exists_one(x, x.a__dash__b == 'a')
        dyn(self.spec.replicas) == 'a' || true";
    for source in fine.lines().map(str::trim).filter(|l| !l.is_empty()) {
        assert_eq!(told(source, &schema), "fine", "{source}");
    }
    for (source, why) in [
        (
            "self.spec.missing == 1",
            "ERROR: <input>:1:10: undefined field 'missing'\n | self.spec.missing == 1\n | .........^",
        ),
        ("has(self.spec.missing)", "undefined field 'missing'"),
        ("self.metadata.labels.size() == 0", "undefined field 'labels'"),
        ("self.spec.free.x == 1", "undefined field 'x'"),
        ("self.spec.few.all(x, x.c == '')", "undefined field 'c'"),
        ("self.spec.replicas == 'a'", "found no matching overload for '_==_' applied to '(int, string)'"),
        ("self.spec.replicas + 1.5 > 2.0", "found no matching overload for '_+_' applied to '(int, double)'"),
        ("self.spec.on > true && self.spec.replicas", "found no matching overload for '_&&_' applied to '(bool, int)'"),
        ("self.spec.replicas.startsWith('a')", "found no matching overload for 'startsWith' applied to 'int.(string)'"),
        ("self.spec.replicas.x", "type 'int' does not support field selection"),
        ("self.spec.replicas.all(x, x > 0)", "cannot be range of a comprehension"),
        ("1 in self.spec.texts", "found no matching overload for '@in' applied to '(int, list(string))'"),
        ("self.spec.replicas == null", "found no matching overload for '_==_' applied to '(int, null)'"),
        ("self.spec.replicas == 1.0", "found no matching overload for '_==_' applied to '(int, double)'"),
        ("self.spec == self.metadata", "found no matching overload for '_==_' applied to '(object, object)'"),
        ("[1, 'a'].size() == 2", "expected type 'int' but found 'string'"),
        ("math.sqrt(4) == 2.0", "undeclared reference to 'math'"),
        ("self.spec.name.matches('(')", "invalid matches argument"),
        ("duration('x') == duration('1s')", "invalid duration argument"),
        ("timestamp('x') == self.spec.when", "invalid timestamp argument"),
        ("self.spec.few.all(x, x, true)", "duplicate variable name: x"),
        ("self.spec.?name == ''", "found no matching overload for '_==_' applied to '(optional_type(string), string)'"),
        ("has(self.spec.labels) ? 1 : 'a'", "found no matching overload for '_?_:_' applied to '(bool, int, string)'"),
        ("Object{}.x", "undeclared reference to 'Object'"),
        ("self.spec.replicas + 1", "must evaluate to a bool"),
        ("self.spec.many.all(x, self.spec.many.all(y, x == y))", "too dear"),
        ("self.spec.texts.all(x, x.contains('a'))", "too dear"),
        ("self.spec.texts.all(x, url(x).getHost() == 'a')", "too dear"),
        ("self.spec.long.contains(self.spec.long)", "too dear"),
    ] {
        let told = told(source, &schema);
        assert!(told.contains(why), "{source}: {told}");
    }
    let rule = Rule { is_resource: true, optional_old: true, wanted: Wanted::Text };
    assert!(Expression::compile_rule("'now ' + string(self.spec.replicas)", &schema, &rule).is_ok());
    assert!(Expression::compile_rule("self.spec.replicas", &schema, &rule).is_err());
}

#[test]
fn lists_that_are_sets_are_equal_in_any_order() {
    let of = |kind: &str| json!({"type": "array", "maxItems": 9, "x-kubernetes-list-type": kind, "items": {"type": "string"}});
    let schema = json!({"type": "object", "properties": {"set": of("set"), "list": of("atomic")}});
    let (new, old) = (json!({"set": ["a", "b"], "list": ["a", "b"]}), json!({"set": ["b", "a"], "list": ["b", "a"]}));
    for (source, want) in [
        ("self.set == oldSelf.set", true),
        ("self.set != oldSelf.set", false),
        ("self.list == oldSelf.list", false),
        ("self.list != oldSelf.list && [1].all(x, self.set == oldSelf.set)", true),
    ] {
        let rule = Rule { is_resource: false, optional_old: false, wanted: Wanted::Truth };
        let (expression, _) = Expression::compile_rule(source, &schema, &rule).unwrap();
        let mut scope = Scope::default();
        scope.bind_typed("self", &new, &schema);
        scope.bind_typed("oldSelf", &old, &schema);
        assert_eq!(expression.is_true(&scope, &Budget::new(1000)), Ok(want), "{source}");
    }
}

#[test]
fn objects_of_mutating_policies_are_json() {
    let made = evaluate("Object{spec: Object.spec{replicas: self.a, paused: true}}", &json!({"a": 3}));
    assert_eq!(made, Ok(json!({"spec": {"replicas": 3, "paused": true}})));
    let patch = evaluate(
        "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'c'}]",
        &json!({}),
    );
    assert_eq!(patch, Ok(json!([{"op": "add", "path": "/metadata/labels/a~1b", "value": "c"}])));
}

#[test]
fn names_of_fields_survive_escaping() {
    for name in ["plain", "a-b", "a.b/c", "namespace", "x__y", "__dash__"] {
        assert_eq!(value::escape(name).map(|escaped| value::unescape(&escaped)).as_deref(), Some(name));
    }
    for name in ["", "1st", "a b", "$ref"] {
        assert_eq!(value::escape(name), None);
    }
}

#[test]
fn words_that_the_language_reserves_are_fields_in_both_writings() {
    let schema = json!({"type": "object", "properties": {
        "namespace": {"type": "string", "maxLength": 9}, "package": {"type": "object", "properties": {"if": {"type": "integer"}}},
        "for": {"type": "array", "maxItems": 3, "items": {"type": "string", "maxLength": 5}}}});
    let value = json!({"namespace": "a", "package": {"if": 1}, "for": ["b"]});
    for source in [
        "self.namespace == 'a' && self.__namespace__ == 'a'",
        "has(self.namespace) && has(self.__package__) && !has(self.package.__if__) == false",
        "self.package.if == 1",
        "self.for.size() == 1 && self.__for__.all(x, x == 'b')",
        "self.?namespace.orValue('') == 'a'",
    ] {
        let rule = Rule { is_resource: false, optional_old: false, wanted: Wanted::Truth };
        let (expression, cost) =
            Expression::compile_rule(source, &schema, &rule).unwrap_or_else(|e| panic!("{source}: {e}"));
        assert!(cost < 1000, "{source}: {cost}");
        let mut scope = Scope::default();
        scope.bind_typed("self", &value, &schema);
        assert_eq!(expression.is_true(&scope, &Budget::new(1000)), Ok(true), "{source}");
    }
}
