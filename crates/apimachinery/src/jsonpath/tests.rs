use serde_json::json;

use super::*;

fn found(path: &str) -> Result<Value, String> {
    let data = json!({
            "kind": "List", "n": null, "items": [
                {"name": "a", "size": 1, "ready": true, "labels": {"app.io/name": "x", "my-key": "y"}},
                {"name": "b", "size": 2, "ready": false, "labels": {}},
                {"name": "c", "size": 3}]});
    let path = Path::parse(path)?;
    path.find(&data, true).map(|found| json!(found))
}

#[test]
fn paths_lead_where_kubectl_goes() {
    for (path, want) in [
        (".kind", json!(["List"])),
        ("{.kind}", json!(["List"])),
        ("$.kind", json!(["List"])),
        (".missing.deeper", json!([])),
        (".n", json!([null])),
        (".n.x", json!([])),
        (r".items[0].labels.app\.io/name", json!(["x"])),
        (r".items[0].labels['app\.io/name']", json!(["x"])),
        (".items[0].labels.my-key", json!(["y"])),
        (".items[-1].name", json!(["c"])),
        (".items[*].name", json!(["a", "b", "c"])),
        (".items[0:2].name", json!(["a", "b"])),
        (".items[::2].name", json!(["a", "c"])),
        (".items[-2:].name", json!(["b", "c"])),
        (".items[0,2].name", json!(["a", "c"])),
        (".items[0]['name','size']", json!(["a", 1])),
        (".items[1:1].name", json!([])),
        (r#".items[?(@.name=="b")].size"#, json!([2])),
        (".items[?(@.name!='b')].size", json!([1, 3])),
        (".items[?(@.size>1)].name", json!(["b", "c"])),
        (".items[?(@.ready==true)].name", json!(["a"])),
        (".items[?(@.labels)].name", json!(["a", "b"])),
        ("..name", json!(["a", "b", "c"])),
        (".items..my-key", json!(["y"])),
        (".items[0].labels.*", json!(["x", "y"])),
        ("'text'", json!(["text"])),
    ] {
        assert_eq!(found(path), Ok(want), "{path}");
    }
}

#[test]
fn what_is_no_path_is_refused_and_what_cannot_be_is_an_error() {
    for path in
        [".items[", ".items[x]", ".items[?(@.a==1]", "....a", "{.a}}", ".items[1:2:3:4]", "'open", "#", "nonsense"]
    {
        assert!(Path::parse(path).is_err(), "{path}");
    }
    for path in [".items[3]", ".kind[0]", ".items[2:1]", ".items[::0]", ".items[?(@.name>1)]", ".kind[?(@.a)]"] {
        assert!(found(path).is_err(), "{path}");
    }
    let missing = Path::parse(".missing").unwrap();
    assert_eq!(missing.find(&json!({}), false), Err("missing is not found".into()));
    let deep = format!("{}.a{}", "[?(@.a".repeat(40), ")]".repeat(40));
    assert!(Path::parse(&deep).is_err());
}

#[test]
fn extremes_of_indexes_are_borne() {
    let numbers = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX];
    for list in [json!([]), json!([1]), json!([1, 2, 3])] {
        for (start, end) in numbers.into_iter().flat_map(|start| numbers.map(|end| (start, end))) {
            for path in [format!("[{start}]"), format!("[{start}:{end}]"), format!("[:{end}:{start}]")] {
                if let Ok(path) = Path::parse(&path) {
                    assert!(
                        path.find(&list, true).is_ok_and(|found| found.len() <= 3) || path.find(&list, true).is_err()
                    );
                }
            }
        }
    }
}

#[test]
fn results_are_bounded() {
    let wide = json!(vec![vec![0; 300]; 300]);
    let path = Path::parse("[*][*]..").unwrap();
    assert!(path.find(&wide, true).is_ok());
    let union = Path::parse(&format!("[{}]", vec!["*"; 400].join(","))).unwrap();
    assert!(union.find(&json!(vec![0; 1000]), true).is_err());
}

#[test]
fn values_are_printed_as_kubectl_does() {
    let printed = |value: Value| text(&value);
    assert_eq!(printed(json!("a")), "a");
    assert_eq!(printed(json!(1)), "1");
    assert_eq!(printed(json!(null)), "<no value>");
    assert_eq!(printed(json!({"a": ["b"]})), r#"{"a":["b"]}"#);
}
