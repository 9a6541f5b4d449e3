//! A DNS server of another zone, which counts what it is asked.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::str::FromStr as _;
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use testkit::Node;

use super::MANY;

/// A resolver of a zone, which counts what it is asked for, by UDP and by TCP.
pub(super) struct Resolver {
    pub(super) address: SocketAddr,
    pub(super) asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Resolver {
    pub(super) fn start(node: &Node) -> anyhow::Result<Self> {
        Self::start_at(node, "127.0.0.1:0")
    }

    pub(super) fn start_at(node: &Node, address: &str) -> anyhow::Result<Self> {
        let (udp, tcp) = node.inside(|| -> std::io::Result<_> {
            let udp = UdpSocket::bind(address)?;
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

    pub(super) fn asked(&self, name: &str) -> usize {
        let asked = self.asked.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        asked.iter().filter(|(key, _)| key.ends_with(name)).map(|(_, n)| n).sum()
    }
}

pub(super) fn read_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0u8; 2];
    stream.read_exact(&mut length)?;
    let mut packet = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut packet)?;
    Ok(packet)
}

pub(super) fn write_framed(stream: &mut TcpStream, packet: &[u8]) -> std::io::Result<()> {
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
