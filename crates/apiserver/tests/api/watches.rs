//! Watches: where they begin, what they tell, how they end.

use serde_json::{Value, json};

use crate::server::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, color: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"color": color}}})
}

async fn revision(server: &Server) -> String {
    server.read(MAPS).await["metadata"]["resourceVersion"].as_str().unwrap().to_string()
}

#[tokio::test]
async fn a_watch_begins_where_it_is_told_to() {
    let server = Server::start().await;
    server.create(MAPS, map("a", "red")).await;
    let then = revision(&server).await;
    server.create(MAPS, map("b", "red")).await;
    let (code, _) = server.json("DELETE", &format!("{MAPS}/a"), &json!({})).await;
    assert_eq!(code, 200);
    let cases: [(String, &[&str]); 6] = [
        // Without a revision, what is there comes first, as if it were new.
        ("watch=1".into(), &["ADDED b"]),
        ("watch=true&resourceVersion=0".into(), &["ADDED b"]),
        (format!("watch=1&resourceVersion={then}"), &["ADDED b", "DELETED a"]),
        (
            "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true".into(),
            &["ADDED b", "BOOKMARK"],
        ),
        (
            format!(
                "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion={then}"
            ),
            &["ADDED b", "BOOKMARK"],
        ),
        (format!("watch=1&resourceVersion={then}&fieldSelector=metadata.name%3Da"), &["DELETED a"]),
    ];
    for (query, want) in cases {
        let mut watch = server.watch(&format!("{MAPS}?{query}")).await;
        assert_eq!(watch.told(want.len()).await, want, "{query}");
    }
    let mut one = server.watch(&format!("{MAPS}/b?watch=1")).await;
    assert_eq!(one.told(1).await, ["ADDED b"]);
    let mut initial = server
        .watch(&format!(
            "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        ))
        .await;
    initial.next().await;
    let end = initial.next().await.unwrap();
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true", "{end}");
    assert_eq!(end["object"]["metadata"]["resourceVersion"], revision(&server).await);
    for query in [
        "watch=1&sendInitialEvents=true",
        "watch=1&resourceVersionMatch=NotOlderThan",
        "watch=1&sendInitialEvents=true&resourceVersionMatch=Exact",
    ] {
        let (code, _, body) = server.get(&format!("{MAPS}?{query}"), "application/json").await;
        assert_eq!(code, 422, "{query}: {body:?}");
    }
}

#[tokio::test]
async fn what_starts_or_stops_to_match_comes_or_goes() {
    let server = Server::start().await;
    server.create(MAPS, map("a", "red")).await;
    let then = revision(&server).await;
    let mut red = server.watch(&format!("{MAPS}?watch=1&resourceVersion={then}&labelSelector=color%3Dred")).await;
    let mut blue = server.watch(&format!("{MAPS}?watch=1&resourceVersion={then}&labelSelector=color%3Dblue")).await;
    let mut all = server.watch(&format!("{MAPS}?watch=1&resourceVersion={then}")).await;
    for change in
        [json!({"data": {"k": "v"}}), json!({"metadata": {"labels": {"color": "blue"}}}), json!({"data": {"k": "w"}})]
    {
        let (code, _) = server.json("PATCH", &format!("{MAPS}/a"), &change).await;
        assert_eq!(code, 200);
    }
    let (code, _) =
        server.json("PATCH", &format!("{MAPS}/a"), &json!({"metadata": {"labels": {"color": "red"}}})).await;
    assert_eq!(code, 200);
    let (code, _) = server.json("DELETE", &format!("{MAPS}/a"), &json!({})).await;
    assert_eq!(code, 200);
    let seen = |events: &[Value]| -> Vec<String> {
        events
            .iter()
            .map(|e| {
                format!(
                    "{} {}",
                    e["type"].as_str().unwrap(),
                    e["object"]["metadata"]["labels"]["color"].as_str().unwrap()
                )
            })
            .collect()
    };
    for (watch, want) in [
        (&mut red, &["MODIFIED red", "DELETED red", "ADDED red", "DELETED red"][..]),
        (&mut blue, &["ADDED blue", "MODIFIED blue", "DELETED blue"]),
        (&mut all, &["MODIFIED red", "MODIFIED blue", "MODIFIED blue", "MODIFIED red", "DELETED red"]),
    ] {
        let mut events = Vec::new();
        for _ in want {
            events.push(watch.next().await.unwrap());
        }
        assert_eq!(seen(&events), want);
        let revisions: Vec<u64> = events
            .iter()
            .map(|e| e["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap())
            .collect();
        assert!(revisions.is_sorted_by(|a, b| a < b), "each event has a newer revision: {revisions:?}");
    }
}

#[tokio::test]
async fn a_watch_from_a_revision_that_is_forgotten_says_so() {
    let server = Server::start().await;
    server.create(MAPS, map("a", "red")).await;
    let then = revision(&server).await;
    // More changes than are kept for those who come back.
    for i in 0..5000 {
        let (code, _) = server.json("PATCH", &format!("{MAPS}/a"), &json!({"data": {"i": i.to_string()}})).await;
        assert_eq!(code, 200);
    }
    let mut watch = server.watch(&format!("{MAPS}?watch=1&resourceVersion={then}")).await;
    let event = watch.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["code"], &event["object"]["reason"]),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn watches_end_when_their_time_is_up_and_tell_how_far_they_came() {
    let server = Server::start().await;
    server.create(MAPS, map("a", "red")).await;
    tokio::time::pause();
    let mut watch = server.watch(&format!("{MAPS}?watch=1&timeoutSeconds=5")).await;
    assert_eq!(watch.told(9).await, ["ADDED a"], "and then the end");
    // A bookmark a minute, for who wants them, with the revision of the whole server.
    let mut patient = server.watch(&format!("{MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=100")).await;
    assert_eq!(patient.told(1).await, ["ADDED a"]);
    server
        .create(
            "/api/v1/namespaces/default/secrets",
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}),
        )
        .await;
    let bookmark = patient.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], revision(&server).await);
    assert!(patient.next().await.is_none());
}

#[tokio::test]
async fn who_does_not_read_is_cut_off_and_keeps_nobody_waiting() {
    let server = Server::start().await;
    server.create(MAPS, map("a", "red")).await;
    let then = revision(&server).await;
    let mut slow = server.watch(&format!("{MAPS}?watch=1&resourceVersion={then}")).await;
    let mut quick = server.watch(&format!("{MAPS}?watch=1&resourceVersion={then}")).await;
    for i in 0..9000 {
        let (code, _) = server.json("PATCH", &format!("{MAPS}/a"), &json!({"data": {"i": i.to_string()}})).await;
        assert_eq!(code, 200);
        assert_eq!(quick.next().await.unwrap()["object"]["data"]["i"], i.to_string());
    }
    let mut read = 0;
    while slow.next().await.is_some() {
        read += 1;
    }
    assert!((1..9000).contains(&read), "{read}");
}
