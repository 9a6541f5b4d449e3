//! Names outside of the cluster, and who is asked for them.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::str::FromStr as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use testkit::Cluster;
use testkit::cluster::Node;

const CLUSTER_DNS: &str = "10.43.0.10:53";
/// Addresses of the name that has too many for a packet.
const MANY: u8 = 200;

/// A resolver of a zone, which counts what it is asked for, by UDP and by TCP.
struct Resolver {
    address: SocketAddr,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Resolver {
    fn start(node: &Node) -> anyhow::Result<Self> {
        let (udp, tcp) = node.inside(|| -> std::io::Result<_> {
            let udp = UdpSocket::bind("127.0.0.1:0")?;
            let tcp = TcpListener::bind(udp.local_addr()?)?;
            Ok((udp, tcp))
        })??;
        let address = udp.local_addr()?;
        let asked: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
        let count = asked.clone();
        std::thread::spawn(move || {
            let mut packet = [0u8; 4096];
            while let Ok((length, peer)) = udp.recv_from(&mut packet) {
                let answer = answer(&packet[..length], false, &count);
                let _ = udp.send_to(&answer, peer);
            }
        });
        let count = asked.clone();
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().map_while(Result::ok) {
                while let Ok(question) = read_framed(&mut stream) {
                    let _ = write_framed(&mut stream, &answer(&question, true, &count));
                }
            }
        });
        Ok(Resolver { address, asked })
    }

    fn asked(&self, name: &str) -> usize {
        let asked = self.asked.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        asked.iter().filter(|(key, _)| key.ends_with(name)).map(|(_, n)| n).sum()
    }
}

fn read_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0u8; 2];
    stream.read_exact(&mut length)?;
    let mut packet = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut packet)?;
    Ok(packet)
}

fn write_framed(stream: &mut TcpStream, packet: &[u8]) -> std::io::Result<()> {
    stream.write_all(&(packet.len() as u16).to_be_bytes())?;
    stream.write_all(packet)
}

fn answer(question: &[u8], tcp: bool, count: &Mutex<BTreeMap<String, usize>>) -> Vec<u8> {
    let Ok(question) = Message::from_vec(question) else { return Vec::new() };
    let Some(query) = question.queries.first() else { return Vec::new() };
    let name = query.name().to_ascii().to_ascii_lowercase();
    let key = format!("{} {name}", if tcp { "tcp" } else { "udp" });
    *count.lock().unwrap_or_else(std::sync::PoisonError::into_inner).entry(key).or_default() += 1;
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.add_query(query.clone());
    let address = |last: u8| Record::from_rdata(query.name().clone(), 60, RData::A(A(Ipv4Addr::new(192, 0, 2, last))));
    match name.as_str() {
        "host.acme.test." | "host.example." if query.query_type() == RecordType::A => {
            answer.add_answer(address(77));
        }
        "host.acme.test." | "host.example." => {}
        "many.acme.test." if tcp => {
            answer.add_answers((0..MANY).map(address));
        }
        "many.acme.test." => answer.metadata.truncation = true,
        _ => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            let zone = Name::from_str("acme.test.").unwrap_or_default();
            let soa = SOA::new(zone.clone(), zone.clone(), 1, 60, 60, 60, 60);
            answer.add_authority(Record::from_rdata(zone, 60, RData::SOA(soa)));
        }
    }
    answer.to_vec().unwrap_or_default()
}

/// Asks the cluster's DNS from the machine, as a pod's resolver would.
fn ask(node: &Node, name: &str, tcp: bool) -> anyhow::Result<Message> {
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_str(name)?, RecordType::A));
    question.metadata.recursion_desired = true;
    let packet = question.to_vec()?;
    let answer = node.inside(|| -> std::io::Result<Vec<u8>> {
        let patience = Some(Duration::from_secs(10));
        if tcp {
            let mut stream = TcpStream::connect(CLUSTER_DNS)?;
            stream.set_read_timeout(patience)?;
            write_framed(&mut stream, &packet)?;
            return read_framed(&mut stream);
        }
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(patience)?;
        socket.send_to(&packet, CLUSTER_DNS)?;
        let mut answer = vec![0; 4096];
        let length = socket.recv(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    })??;
    Ok(Message::from_vec(&answer)?)
}

#[test]
fn names_of_other_zones_are_asked_where_they_are_known_and_kept() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    let node = &cluster.server;
    let resolver = Resolver::start(node)?;
    let settings = |stubs: &str| {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: kube-dns, namespace: kube-system}}\ndata:\n  stubDomains: '{stubs}'\n  queryLog: 'true'\n"
        ))
    };
    settings(&format!("{{\"acme.test\": [\"{}\"]}}", resolver.address))?;
    cluster.eventually("the zone's own resolver is asked", || {
        Ok(ask(node, "host.acme.test.", false)?.answers.iter().any(|r| r.data.to_string() == "192.0.2.77"))
    })?;
    // What is known isn't asked for again, whether there is something or not.
    let before = resolver.asked("host.acme.test.");
    for _ in 0..3 {
        assert_eq!(ask(node, "HOST.acme.test.", false)?.answers.len(), 1);
        let nothing = ask(node, "missing.acme.test.", false)?;
        assert_eq!(nothing.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(nothing.authorities.len(), 1);
    }
    assert_eq!(resolver.asked("host.acme.test."), before);
    assert_eq!(resolver.asked("missing.acme.test."), 1);
    // An answer that no packet holds comes by TCP, on both ways.
    let cut = ask(node, "many.acme.test.", false)?;
    assert!(cut.metadata.truncation && cut.answers.is_empty(), "{cut:?}");
    assert_eq!(ask(node, "many.acme.test.", true)?.answers.len(), usize::from(MANY));
    assert!(resolver.asked("tcp many.acme.test.") >= 1);

    // What can't be read is told and changes nothing; questions are told as the settings say.
    settings("{\"acme.test\": [\"resolver\"]}")?;
    let log = || std::fs::read_to_string(node.folder().join("log")).unwrap_or_default();
    cluster.eventually("the complaint names key and value", || {
        Ok(log().contains("ConfigMap kube-system/kube-dns can't be used")
            && log().contains("stubDomains: \\\"resolver\\\" is no address"))
    })?;
    assert_eq!(ask(node, "host.acme.test.", false)?.answers.len(), 1);
    assert!(log().contains("a name is asked for name=host.acme.test."), "{}", log());
    // What was counted is told where CoreDNS tells it.
    let url = format!("http://{}:9153/metrics", CLUSTER_DNS.trim_end_matches(":53"));
    let counted = node.run(&["curl", "-s", "-m", "5", &url].map(String::from), "").stdout;
    for line in ["coredns_dns_responses_total{rcode=\"NXDOMAIN\"} 3", "coredns_forward_requests_total "] {
        assert!(counted.contains(line), "{line}: {counted}");
    }
    // Names of the cluster are answered beside all that, and garbage by nothing at all.
    node.inside(|| UdpSocket::bind("0.0.0.0:0")?.send_to(&[0xff; 40], CLUSTER_DNS))??;
    assert_eq!(ask(node, "kubernetes.default.svc.cluster.local.", false)?.answers.len(), 1);
    Ok(())
}

#[test]
fn questions_that_would_go_round_for_ever_are_refused_until_somebody_else_is_named() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    let node = &cluster.server;
    let resolver = Resolver::start(node)?;
    let settings = |upstream: &str| {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: kube-dns, namespace: kube-system}}\ndata:\n  \
             stubDomains: '{{\"acme.test\": [\"{}\"]}}'\n  upstreamNameservers: '[\"{upstream}\"]'\n",
            resolver.address
        ))
    };
    settings(CLUSTER_DNS)?;
    let log = || std::fs::read_to_string(node.folder().join("log")).unwrap_or_default();
    cluster.eventually("it is told", || Ok(log().contains("ask the cluster's DNS in turn")))?;
    assert_eq!(ask(node, "host.example.", false)?.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(resolver.asked("host.example."), 0);
    // What has a way of its own isn't touched.
    assert_eq!(ask(node, "host.acme.test.", false)?.answers.len(), 1);
    assert_eq!(ask(node, "kubernetes.default.svc.cluster.local.", false)?.answers.len(), 1);
    settings(&resolver.address.to_string())?;
    cluster.eventually("others are asked", || Ok(ask(node, "host.example.", false)?.answers.len() == 1))
}
