//! Large lists: made piece by piece as they are read, and the same to the byte as if they were made at once.

use std::io::Read as _;

use apimachinery::yaml;
use apiserver::User;
use bytes::Bytes;
use http::Request;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use serde_json::{Map, Value, json};

use crate::server::{Server, read};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const PARTIAL: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

fn map(name: &str, bytes: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "annotations": {"a": "<&>\u{2028}\n'"}},
        "data": {"a": "x".repeat(bytes), "b": "two\nlines: - & <>\n"}})
}

/// Some two pieces of small objects, one that is larger than a piece, and some more.
async fn with_large_maps() -> Server {
    let server = Server::start_on_disk().await;
    for i in 0..30 {
        let bytes = if i == 17 { 300_000 } else { 10_000 };
        server.create(MAPS, map(&format!("m{i:02}"), bytes)).await;
    }
    server
}

/// All objects of a list, one by one.
async fn each(server: &Server, list: &str, accept: &str) -> Vec<Bytes> {
    let mut all = Vec::new();
    for object in server.read(list).await["items"].as_array().unwrap() {
        let [namespace, name] = ["namespace", "name"].map(|field| object["metadata"][field].as_str().unwrap());
        all.push(server.get(&format!("/api/v1/namespaces/{namespace}/configmaps/{name}"), accept).await.2);
    }
    all
}

/// What Go writes of a JSON value: three characters are escaped that serde leaves as they are, and two more.
fn go(value: &Value) -> String {
    let text = value.to_string();
    let escaped = [("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u{2028}", "\\u2028")];
    escaped.iter().fold(text, |text, (plain, escaped)| text.replace(plain, escaped))
}

#[tokio::test]
async fn a_large_list_is_its_objects_to_the_byte() {
    let server = with_large_maps().await;
    let objects = each(&server, MAPS, "application/json").await;
    let parsed: Vec<Value> = objects.iter().map(|bytes| serde_json::from_slice(bytes).unwrap()).collect();
    let revision = server.read(MAPS).await["metadata"]["resourceVersion"].as_str().unwrap().to_string();
    let join =
        |all: &[Bytes]| all.iter().map(|bytes| std::str::from_utf8(bytes).unwrap()).collect::<Vec<_>>().join(",");
    let whole = |metadata: &str, items: &str| {
        format!("{{\"kind\":\"ConfigMapList\",\"apiVersion\":\"v1\",\"metadata\":{metadata},\"items\":[{items}]}}\n")
    };
    let metadata = format!("{{\"resourceVersion\":\"{revision}\"}}");
    // Of all objects, of a namespace's, and of selected ones.
    for path in ["/api/v1/configmaps", MAPS, &format!("{MAPS}?labelSelector=!none")] {
        let joined = join(&each(&server, path, "application/json").await);
        for _ in 0..2 {
            let (code, media, body) = server.get(path, "application/json").await;
            assert_eq!((code.as_u16(), media.as_str()), (200, "application/json"));
            let want = whole(&metadata, &joined);
            assert!(body == want.as_bytes(), "{path}: {} bytes instead of {}", body.len(), want.len());
        }
    }
    // A page, with what is left.
    let (_, _, page) = server.get(&format!("{MAPS}?limit=20"), "application/json").await;
    let token = serde_json::from_slice::<Value>(&page).unwrap()["metadata"]["continue"].as_str().unwrap().to_string();
    let metadata = format!("{{\"resourceVersion\":\"{revision}\",\"continue\":\"{token}\",\"remainingItemCount\":10}}");
    assert!(page == whole(&metadata, &join(&objects[..20])).as_bytes());

    let (_, _, partial) = server.get(MAPS, PARTIAL).await;
    let only = |object: &Value| json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]});
    let items: Vec<Value> = parsed.iter().map(only).collect();
    let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": revision}, "items": items});
    assert!(partial == go(&list).as_bytes());

    // The rows of a table are those that each object has alone.
    for include in ["None", "Metadata", "Object"] {
        let query = format!("?includeObject={include}");
        let (_, _, body) = server.get(&format!("{MAPS}{query}"), TABLE).await;
        let mut table: Value = serde_json::from_slice(&body).unwrap();
        assert!(body == go(&table).as_bytes(), "{include}: its members are in order");
        let rows = table["rows"].take();
        let rows = rows.as_array().unwrap();
        assert_eq!(rows.len(), 30);
        for (i, row) in rows.iter().enumerate() {
            let (_, _, alone) = server.get(&format!("{MAPS}/m{i:02}{query}"), TABLE).await;
            let alone: Value = serde_json::from_slice(&alone).unwrap();
            assert_eq!(alone["columnDefinitions"], table["columnDefinitions"]);
            assert_eq!(
                (&alone["rows"][0]["object"], &alone["rows"][0]["cells"][0]),
                (&row["object"], &row["cells"][0])
            );
        }
    }
    for (accept, as_json) in [
        ("application/yaml", "application/json"),
        ("application/yaml;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", PARTIAL),
    ] {
        let (_, media, text) = server.get(MAPS, accept).await;
        let value: Value = serde_json::from_slice(&server.get(MAPS, as_json).await.2).unwrap();
        assert_eq!(media, "application/yaml");
        assert!(text == yaml::write(&value).as_bytes(), "{accept}");
    }
    let (_, _, table) = server.get(MAPS, "application/yaml;as=Table;v=v1;g=meta.k8s.io").await;
    let table = yaml::first(&table, bounded::Limits::REQUEST).unwrap().value;
    assert_eq!(table["rows"].as_array().unwrap().len(), 30);
}

/// The fields of a message: their numbers and contents. Those of lists and envelopes all have a length.
fn fields(mut message: &[u8]) -> Vec<(u8, &[u8])> {
    let mut all = Vec::new();
    while let [key, rest @ ..] = message {
        assert_eq!(key & 7, 2);
        let (mut length, mut shift, mut at) = (0usize, 0, 0);
        loop {
            length |= usize::from(rest[at] & 0x7f) << shift;
            (shift, at) = (shift + 7, at + 1);
            if rest[at - 1] < 0x80 {
                break;
            }
        }
        all.push((key >> 3, &rest[at..at + length]));
        message = &rest[at + length..];
    }
    all
}

#[tokio::test]
async fn a_large_list_in_protobuf_is_its_objects_to_the_byte() {
    let server = with_large_maps().await;
    for path in ["/api/v1/configmaps", MAPS] {
        let objects = each(&server, path, PROTOBUF).await;
        let (_, media, list) = server.get(path, PROTOBUF).await;
        assert_eq!(media, PROTOBUF);
        let envelope = fields(list.strip_prefix(b"k8s\0").unwrap());
        assert_eq!(envelope.len(), 2, "the length that was told is that of the list");
        let list = fields(envelope[1].1);
        assert_eq!((list.len(), list[0].0), (objects.len() + 1, 1));
        for (object, (number, item)) in objects.iter().zip(&list[1..]) {
            assert_eq!(*number, 2);
            assert!(fields(object.strip_prefix(b"k8s\0").unwrap())[1].1 == *item);
        }
    }
}

#[tokio::test]
async fn a_large_list_of_the_past_is_as_it_was() {
    let server = with_large_maps().await;
    let (_, _, then) = server.get(MAPS, "application/json").await;
    let list: Value = serde_json::from_slice(&then).unwrap();
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    let (_, _, first) = server.get(&format!("{MAPS}?limit=2"), "application/json").await;
    let token = serde_json::from_slice::<Value>(&first).unwrap()["metadata"]["continue"].as_str().unwrap().to_string();
    server.json("DELETE", &format!("{MAPS}/m05"), &json!({})).await;
    server.create(MAPS, map("m05a", 10)).await;
    let exactly = format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact");
    let (_, _, now) = server.get(&exactly, "application/json").await;
    assert!(now == then, "{} bytes instead of {}", now.len(), then.len());
    let (_, _, rest) = server.get(&format!("{MAPS}?limit=25&continue={token}"), "application/json").await;
    let rest: Value = serde_json::from_slice(&rest).unwrap();
    assert_eq!(rest["items"].as_array().unwrap(), &list["items"].as_array().unwrap()[2..27]);
    assert_eq!(rest["metadata"]["remainingItemCount"], 3);
    // In protobuf its length is told before the first object.
    let (_, _, protobuf) = server.get(&exactly, PROTOBUF).await;
    assert_eq!(fields(fields(protobuf.strip_prefix(b"k8s\0").unwrap())[1].1).len(), 31);
}

#[tokio::test]
async fn small_lists_are_whole_and_large_ones_are_packed_as_they_come() {
    let server = with_large_maps().await;
    let ask = |path: &str, encoding: &str| {
        let request = Request::get(path).header("accept-encoding", encoding).body(Bytes::new()).unwrap();
        server.send(request)
    };
    let small = format!("{MAPS}?limit=1");
    for (path, is_whole) in [(small.as_str(), true), ("/api/v1/namespaces/none/configmaps", true), (MAPS, false)] {
        assert_eq!(ask(path, "").await.body().size_hint().exact().is_some(), is_whole, "{path}");
    }
    let packed = ask(MAPS, "gzip").await;
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert!(packed.body().size_hint().exact().is_none());
    let (_, _, packed) = read(packed).await;
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut text).unwrap();
    let (_, _, plain) = read(ask(MAPS, "").await).await;
    assert!(packed.len() * 4 < plain.len() && text == plain);
    // A table of large objects may be small.
    let table =
        Request::get(format!("{MAPS}?includeObject=None")).header("accept", TABLE).header("accept-encoding", "gzip");
    let table = server.send(table.body(Bytes::new()).unwrap()).await;
    assert!(table.headers().get("content-encoding").is_none());
}

/// Reads of all objects take nothing away from those that change them, and a list shows the objects as they were.
#[tokio::test]
async fn what_changes_while_a_list_is_read_is_not_in_it() {
    let server = with_large_maps().await;
    let (_, _, before) = server.get("/api/v1/configmaps", "application/json").await;
    for path in ["/api/v1/configmaps", MAPS] {
        let answer = server.send(Request::get(path).body(Bytes::new()).unwrap()).await;
        let mut body = answer.into_body();
        let mut text = Vec::from(body.frame().await.unwrap().unwrap().into_data().unwrap());
        for i in [1, 17, 29] {
            let patch = json!({"data": {"b": path}});
            let (code, _) = server.json("PATCH", &format!("{MAPS}/m{i:02}"), &patch).await;
            assert_eq!(code, 200);
        }
        text.extend_from_slice(&body.collect().await.unwrap().to_bytes());
        let (_, _, after) = server.get("/api/v1/configmaps", "application/json").await;
        let list: Value = serde_json::from_slice(&text).unwrap();
        if path != MAPS {
            assert!(text == before);
        }
        assert!(text != after && list["items"].as_array().unwrap().len() >= 30);
    }
}

/// Of an attack there is a part that is counted: what the answers that nobody reads keep in memory.
async fn unsent(server: &Server) -> usize {
    let (_, _, metrics) = server.get("/metrics", "").await;
    let metrics = String::from_utf8(metrics.into()).unwrap();
    let line = metrics.lines().find_map(|line| line.strip_prefix("timonel_apiserver_unsent_bytes "));
    line.unwrap().parse::<f64>().unwrap() as usize
}

async fn with_viewers(server: &Server) -> [User; 2] {
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "viewers"}]});
    server.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    ["anna", "olga"].map(|name| User::new(name, &["viewers"]))
}

#[tokio::test]
async fn lists_that_nobody_reads_keep_little_in_memory_and_leave_room_for_others() {
    const MOST: usize = 128 << 20;
    let server = with_large_maps().await;
    let [anna, olga] = with_viewers(&server).await;
    let list = |user| {
        let request = Request::get(MAPS).body(Bytes::new()).unwrap();
        server.send_as(user, request)
    };
    let mut open = Vec::new();
    for _ in 0..50 {
        let answer = list(&anna).await;
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        let first = body.frame().await.unwrap().unwrap();
        open.push((body, first));
    }
    let fifty = unsent(&server).await;
    assert!(fifty < 50 * (300 << 10), "{fifty} bytes for lists of 600,000 each");
    // Many more of the same user are refused before the others' room is used up.
    let refused = loop {
        let answer = list(&anna).await;
        if answer.status() != 200 {
            break answer;
        }
        open.push((answer.into_body(), http_body::Frame::data(Bytes::new())));
        assert!(open.len() < 1000);
    };
    assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (429, true));
    let all = unsent(&server).await;
    assert!((MOST / 4..=MOST / 2 + (1 << 20)).contains(&all), "{all}");
    assert_eq!(list(&olga).await.status(), 200);
    drop(open);
    assert_eq!(unsent(&server).await, 0);
    assert_eq!(list(&anna).await.status(), 200);
}

#[tokio::test]
async fn a_watch_begins_with_a_large_list_as_it_is_read() {
    let server = with_large_maps().await;
    let mut watch = server.watch(&format!("{MAPS}?watch=true")).await;
    let mut names = Map::new();
    for _ in 0..30 {
        let event = watch.next().await.unwrap();
        assert_eq!(event["type"], "ADDED");
        names.insert(event["object"]["metadata"]["name"].as_str().unwrap().into(), Value::Null);
    }
    assert_eq!(names.len(), 30);
    server.json("DELETE", &format!("{MAPS}/m05"), &json!({})).await;
    assert_eq!(watch.told(1).await, ["DELETED m05"]);
}
