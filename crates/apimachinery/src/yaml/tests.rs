use super::*;
use serde_json::json;

fn read(text: &str) -> Value {
    first(text.as_bytes(), Limits::REQUEST).unwrap().value
}

fn refused(text: &str) -> String {
    first(text.as_bytes(), Limits::REQUEST).unwrap_err().to_string()
}

#[test]
fn scalars_are_those_of_yaml_1_1() {
    for (text, want) in [
        ("0400", json!(256)),
        ("08", json!(8)),
        ("0o17", json!(15)),
        ("0x1F", json!(31)),
        ("0b11", json!(3)),
        ("-0b11", json!(-3)),
        ("1_000", json!(1000)),
        ("+5", json!(5)),
        ("1e3", json!(1000)),
        ("1e9", json!(1_000_000_000)),
        ("1.5", json!(1.5)),
        (".5", json!(0.5)),
        ("1e400", json!("1e400")),
        ("18446744073709551615", json!(u64::MAX)),
        ("yes", json!(true)),
        ("Off", json!(false)),
        ("y", json!(true)),
        ("~", json!(null)),
        ("12:30", json!("12:30")),
        ("2001-01-01", json!("2001-01-01")),
        ("--1", json!("--1")),
        ("1.2.3", json!("1.2.3")),
        ("\"yes\"", json!("yes")),
        ("'0400'", json!("0400")),
        ("!!str 5", json!("5")),
        ("! 5", json!("5")),
        ("!!int \"5\"", json!(5)),
        ("!!float 5", json!(5)),
        ("!!binary aGk=", json!("hi")),
        ("!foo bar", json!("bar")),
        ("<<", json!("<<")),
    ] {
        assert_eq!(read(&format!("a: {text}")), json!({ "a": want }), "{text}");
    }
}

#[test]
fn keys_become_texts() {
    assert_eq!(
        read("1: a\n1.5: b\nno: c\n1e30: d\n1e9: e\n2001-01-01: f"),
        json!({"1": "a", "1.5": "b", "false": "c", "1e+30": "d", "1e+09": "e", "2001-01-01": "f"})
    );
    assert!(refused("~: a").contains("a key must be"));
    assert!(refused("[a]: b").contains("a key must be"));
    assert!(refused("a: .nan").contains("unsupported value: NaN"));
}

#[test]
fn merge_keys_and_aliases_are_carried_out_in_their_order() {
    assert_eq!(
        read("a: &a {x: 1, z: 2}\nb: {x: 9, <<: *a, w: 3}"),
        json!({"a": {"x": 1, "z": 2}, "b": {"x": 1, "z": 2, "w": 3}})
    );
    assert_eq!(read("a: &a {x: 1}\nc: &c {x: 2, w: 3}\nb: {<<: [*a, *c], z: 7}")["b"], json!({"x": 1, "w": 3, "z": 7}));
    assert_eq!(read("- &x y1\n- {*x : 1}"), json!(["y1", {"y1": 1}]));
    assert!(refused("a: {<<: 1}").contains("map merge requires map"));
    assert!(refused("a: &a [*a]").contains("contains itself"));
}

#[test]
fn only_the_first_document_counts_and_a_marker_at_the_end_is_none() {
    assert_eq!(read("a: 1\n---\n"), json!({"a": 1}));
    assert_eq!(read("a: 1\n---\nb: 2"), json!({"a": 1}));
    assert_eq!(read(""), json!(null));
    let documents = all(b"---\na: 1\n---\n# nothing\n---\nb: 2\n---\n", Limits::FILE).unwrap();
    assert_eq!(documents.into_iter().map(|d| d.value).collect::<Vec<_>>(), [json!({"a": 1}), json!({"b": 2})]);
}

#[test]
fn keys_that_stand_twice_are_told() {
    let document = first(b"a: 1\nb: {c: 1, c: 2}\na: 2\n", Limits::REQUEST).unwrap();
    assert_eq!(document.value, json!({"a": 2, "b": {"c": 2}}));
    assert_eq!(document.duplicates, ["line 2: key \"c\" already set in map", "line 3: key \"a\" already set in map"]);
    assert!(from_str::<Value>("a: 1\na: 2").is_err());
}

#[derive(Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    user: String,
    port: u16,
    on: Option<bool>,
    #[serde(default)]
    tags: Vec<String>,
}

#[test]
fn configuration_takes_numbers_for_texts_and_names_what_is_wrong() {
    let settings: Settings = from_str("user: 0123\nport: 80\n\"on\": yes\ntags: [1, true, x]\n").unwrap();
    let want =
        Settings { user: "83".into(), port: 80, on: Some(true), tags: ["1", "true", "x"].map(String::from).to_vec() };
    assert_eq!(settings, want);
    let error = from_str::<Settings>("user: a\nprot: 80\n").unwrap_err().to_string();
    assert!(error.contains("prot"), "{error}");
    assert!(from_str::<Settings>("user: [a]\nport: 80\n").is_err());
}

#[test]
fn aliases_count_as_what_they_repeat() {
    let list = vec!["x"; 30_000].join(",");
    let aliases = vec!["*a"; 30_000].join(",");
    assert!(refused(&format!("a: &a [{list}]\nb: [{aliases}]")).contains("it has more than"));
    let long = "x".repeat(1 << 20);
    assert!(refused(&format!("a: &a {long}\nb: [*a, *a, *a]")).contains("its aliases make it larger"));
    let mut nested = String::from("a0: &a0 [x]\n");
    for i in 1..200 {
        nested.push_str(&format!("a{i}: &a{i} [*a{}]\n", i - 1));
    }
    assert!(refused(&nested).contains("nests more than"));
}

#[test]
fn depth_and_size_are_bound() {
    let deep = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
    assert!(first(deep(100).as_bytes(), Limits::REQUEST).is_ok());
    assert!(first(deep(5000).as_bytes(), Limits::REQUEST).is_err());
    let block: String = (0..5000).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    assert!(first(block.as_bytes(), Limits::FILE).is_err());
    assert!(refused(&" ".repeat(4 << 20)).contains("larger than"));
    assert!(refused("\"a").starts_with("yaml: "));
    assert!(first(b"a: \xff", Limits::REQUEST).is_err());
}

#[test]
fn what_is_written_reads_as_itself() {
    let value = json!({
        "apiVersion": "v1",
        "items": [{"name": "a", "l": [[1, 2], [], {}]}, "x", null, true, 1.5, -3],
        "text": {"yes": "yes", "octal": "0400", "empty": "", "colon": "a: b", "dash": "- a", "time": "12:30:00",
            "lines": "one\n  two\n\nthree\n", "open": "one\ntwo", "many": "one\n\n\n", "tab": "\ta\nb", "quote": "'\"",
            "hash": "a #b", "ctl": "a\u{1}b", "star": "*a", "star2": "a\n*b\n", "uni": "é", "null": "null", "sep": "---"},
        "empty": {}, "none": [],
    });
    let text = write(&value);
    assert_eq!(first(text.as_bytes(), Limits::FILE).unwrap(), Document { value, duplicates: vec![] }, "{text}");
    assert_eq!(
        write(&json!({"a": {"b": [{"c": 1, "d": {"e": "on"}}, 2]}, "l": "x\ny\n"})),
        "a:\n  b:\n  - c: 1\n    d:\n      e: \"on\"\n  - 2\nl: |\n  x\n  y\n"
    );
    assert_eq!(write(&json!([])), "[]\n");
    assert_eq!(write(&json!("a")), "a\n");
}

proptest::proptest! {
    #[test]
    fn nothing_that_is_sent_ends_the_reader(text in "[-a-c:&*<>|'\"{}\\[\\], \n!#?%~0-9.]{0,60}") {
        let _ = all(text.as_bytes(), Limits::REQUEST);
    }

    #[test]
    fn every_text_survives_being_written(text in "(?s).{0,30}", key in "[ -~]{0,12}") {
        let value = json!({key: [text.clone(), {"k": text}]});
        let written = write(&value);
        proptest::prop_assert_eq!(first(written.as_bytes(), Limits::FILE).unwrap().value, value, "{}", written);
    }
}
