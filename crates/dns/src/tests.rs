use hickory_proto::op::{OpCode, ResponseCode};
use hickory_proto::rr::{RData, Record};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::answer::{LocalAnswer, find, local};
use crate::listen::{tcp_connection, udp_limit};

/// Asks for the addresses of `name` from the namespace `default`: what is found, the code, and what is to be asked elsewhere.
fn found(services: &str, name: &str) -> String {
    let parsed: Vec<Service> = serde_json::from_str(services).unwrap();
    let namespaces = ["default", "shop"].map(|name| {
        let value = serde_json::json!({"metadata": {"name": name}});
        Arc::new(serde_json::from_value::<Namespace>(value).unwrap())
    });
    let services: Vec<_> = parsed.into_iter().map(Arc::new).collect();
    let zone = Zone::build("cluster.local", None, &services, &[], &namespaces);
    let query = Query::query(Name::from_ascii(name).unwrap(), RecordType::A);
    let (answer, rest) = match find(&zone, Message::query(), &query, || Some("default".into())) {
        LocalAnswer::Complete(answer) => (answer, String::new()),
        LocalAnswer::Partial(answer, rest) => (answer, format!(" then {}", rest.name())),
    };
    let data: Vec<String> = answer.answers.iter().map(|r| r.data.to_string()).collect();
    format!("{} {}{rest}", answer.metadata.response_code, data.join(" "))
}

#[test]
fn aliases_are_followed_to_their_end() {
    let services = r#"[
            {"metadata": {"name": "api", "namespace": "shop"}, "spec": {"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"]}},
            {"metadata": {"name": "near", "namespace": "default"},
             "spec": {"type": "ExternalName", "externalName": "api.shop.svc.cluster.local"}},
            {"metadata": {"name": "far", "namespace": "default"}, "spec": {"type": "ExternalName", "externalName": "example.org"}},
            {"metadata": {"name": "lost", "namespace": "default"},
             "spec": {"type": "ExternalName", "externalName": "none.shop.svc.cluster.local"}},
            {"metadata": {"name": "round", "namespace": "default"},
             "spec": {"type": "ExternalName", "externalName": "round.default.svc.cluster.local"}}]"#;
    let zone = "default.svc.cluster.local.";
    let check = |name: &str, want: &str| assert_eq!(found(services, name), want, "{name}");
    check(&format!("near.{zone}"), "No Error api.shop.svc.cluster.local. 10.43.0.7");
    check("near.", &format!("No Error near.{zone} api.shop.svc.cluster.local. 10.43.0.7"));
    check(&format!("far.{zone}"), "No Error example.org. then example.org.");
    check("far.", &format!("No Error far.{zone} example.org. then example.org."));
    check(&format!("lost.{zone}"), "Non-Existent Domain none.shop.svc.cluster.local.");
    check("example.org.", "No Error  then example.org.");
    let round = found(services, &format!("round.{zone}"));
    assert!(round.starts_with("Server Failure"), "{round}");
}

#[test]
fn every_address_is_the_first_at_times() {
    let record = |text: &str, data| Record::from_rdata(Name::from_ascii(text).unwrap(), 5, data);
    let alias = || RData::CNAME(hickory_proto::rr::rdata::CNAME(Name::from_ascii("b.").unwrap()));
    let mut records = vec![record("a.", alias())];
    records.extend((0..3).map(|n| record("b.", RData::A(std::net::Ipv4Addr::new(10, 0, 0, n).into()))));
    let mut firsts = std::collections::BTreeSet::new();
    for turn in 0..3 {
        let mut turned = records.clone();
        take_turns(&mut turned, turn);
        assert_eq!(turned[0], records[0]);
        firsts.insert(turned[1].data.to_string());
    }
    assert_eq!(firsts.into_iter().collect::<Vec<_>>(), ["10.0.0.0", "10.0.0.1", "10.0.0.2"]);
}

/// What the other end of a connection hears of `sent`, after all the time that there is.
async fn heard(sent: &[u8]) -> Vec<u8> {
    let (_, upstreams) = watch::channel(Vec::new());
    let address = std::net::Ipv4Addr::LOCALHOST.into();
    let config = Config { address, domain: "cluster.local".into(), local: LocalPods::default(), upstreams };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    let serving = tokio::spawn(tcp_connection(Arc::new(Server::new(config)), stream, peer.ip()));
    client.write_all(sent).await.unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    let _ = serving.await.unwrap();
    heard
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_or_too_much_ends() {
    assert!(heard(&[]).await.is_empty());
    assert!(heard(&[0, 40, 1, 2, 3]).await.is_empty(), "half a question");
    assert!(heard(&[0xff, 0xff]).await.is_empty(), "a question too long");
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii("api.shop.svc.cluster.local.").unwrap(), RecordType::A));
    let packet = question.to_vec().unwrap();
    let framed = [&u16::try_from(packet.len()).unwrap().to_be_bytes(), packet.as_slice()].concat();
    let answer = Message::from_vec(&heard(&framed).await[2..]).unwrap();
    // Nothing is known yet, which isn't to say that there is nothing.
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn answers_are_as_large_as_clients_take_them() {
    let limit = |payload: Option<u16>| {
        let mut question = Message::query();
        question.edns = payload.map(|payload| {
            let mut edns = hickory_proto::op::Edns::new();
            edns.set_max_payload(payload);
            edns
        });
        udp_limit(&question)
    };
    assert_eq!([None, Some(0), Some(512), Some(800), Some(4096)].map(limit), [512, 512, 512, 800, 1232]);
}

#[test]
fn what_is_no_question_is_refused() {
    let code = |change: fn(&mut Message)| {
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii("cluster.local.").unwrap(), RecordType::A));
        change(&mut question);
        let (_, upstreams) = watch::channel(Vec::new());
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        let config = Config { address, domain: "cluster.local".into(), local: LocalPods::default(), upstreams };
        match local(&Server::new(config), &question, address) {
            LocalAnswer::Complete(answer) => answer.metadata.response_code,
            LocalAnswer::Partial(..) => ResponseCode::NoError,
        }
    };
    assert_eq!(code(|m| m.metadata.op_code = OpCode::Update), ResponseCode::NotImp);
    assert_eq!(
        code(|m| {
            m.queries.clear();
        }),
        ResponseCode::FormErr
    );
    assert_eq!(
        code(|m| {
            m.queries[0].set_query_type(RecordType::AXFR);
        }),
        ResponseCode::Refused
    );
}
