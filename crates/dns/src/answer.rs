//! The response to a query: from the zone, and for other names from the upstreams.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};

use crate::Server;
use crate::metrics;
use crate::zone::{self, Zone, ZoneAnswer};

/// Limit of CNAME records that are followed.
const MAX_CNAME_CHAIN: usize = 8;

/// The zone's answer to a query.
pub(crate) enum LocalAnswer {
    Complete(Message),
    /// The response so far, and the query to forward: the original one, or that of a CNAME's target.
    Partial(Message, Query),
}

pub(crate) fn local(server: &Server, question: &Message, peer: IpAddr) -> LocalAnswer {
    let mut answer = zone::response_to(question);
    let query = question.queries.first().filter(|_| question.metadata.message_type == MessageType::Query);
    if question.metadata.op_code != OpCode::Query {
        answer.metadata.response_code = ResponseCode::NotImp;
        return LocalAnswer::Complete(answer);
    }
    // Zone transfers (AXFR) are refused.
    if query.is_some_and(|query| matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR)) {
        answer.metadata.response_code = ResponseCode::Refused;
        return LocalAnswer::Complete(answer);
    }
    let Some(query) = query else {
        answer.metadata.response_code = ResponseCode::FormErr;
        return LocalAnswer::Complete(answer);
    };
    if server.log.load(Ordering::Relaxed) {
        tracing::info!(name = %query.name(), kind = %query.query_type(), %peer, "DNS query");
    }
    if query.name().to_ascii() == server.probe {
        server.is_loop.store(true, Ordering::Relaxed);
        return LocalAnswer::Complete(answer);
    }
    let zone = server.zone.read().clone();
    let namespace = || server.config.local.namespace_of(peer);
    find(&zone, answer, query, namespace)
}

/// Follows CNAME records within the zone: stub resolvers expect the addresses in the same response (RFC 1034, section 4.3.2).
pub(crate) fn find(
    zone: &Zone,
    mut answer: Message,
    query: &Query,
    namespace: impl Fn() -> Option<String>,
) -> LocalAnswer {
    let kind = query.query_type();
    let mut next = query.clone();
    for hop in 0..MAX_CNAME_CHAIN {
        let records = match zone.answer(next.name(), kind) {
            ZoneAnswer::NotInZone if hop > 0 => return LocalAnswer::Partial(answer, next),
            ZoneAnswer::NotInZone => {
                let found = namespace().and_then(|namespace| zone.search(query.name(), kind, &namespace));
                let Some(records) = found else { return LocalAnswer::Partial(answer, next) };
                records
            }
            ZoneAnswer::Records(records) => {
                answer.metadata.authoritative = true;
                records
            }
            ZoneAnswer::NameError(soa) => {
                answer.metadata.authoritative = true;
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.add_authority(soa);
                return LocalAnswer::Complete(answer);
            }
            ZoneAnswer::NotReady => {
                answer.metadata.response_code = ResponseCode::ServFail;
                return LocalAnswer::Complete(answer);
            }
            ZoneAnswer::NoData(soa) => {
                answer.metadata.authoritative = true;
                answer.add_authority(soa);
                return LocalAnswer::Complete(answer);
            }
        };
        let alias = match records.last().map(|r| &r.data) {
            Some(RData::CNAME(alias)) if !matches!(kind, RecordType::CNAME | RecordType::ANY) => Some(alias.0.clone()),
            _ => None,
        };
        answer.add_answers(records);
        match alias {
            Some(alias) => next.set_name(alias),
            None => {
                answer.add_additionals(zone.additional_records(&answer.answers));
                return LocalAnswer::Complete(answer);
            }
        };
    }
    answer.metadata.response_code = ResponseCode::ServFail;
    LocalAnswer::Complete(answer)
}

/// Forwards the query `rest` and adds the upstream's records to the response.
pub(crate) async fn forward(server: &Server, client: IpAddr, mut answer: Message, rest: Query) -> Message {
    let upstreams = server.upstreams.read().clone();
    // Stub domains aren't affected by a loop of the upstreams.
    let round = server.is_loop.load(Ordering::Relaxed) && !upstreams.is_of_zone(&rest);
    match server.forwarding.try_acquire(client) {
        Some(_place) if !round => {
            metrics::forwarded();
            upstreams.ask(&rest, &mut answer).await;
        }
        _ => answer.metadata.response_code = ResponseCode::ServFail,
    }
    answer
}

/// Puts the addresses behind those aliases that lead to them in another order.
pub(crate) fn take_turns(records: &mut [Record], turn: usize) {
    let aliases = records.iter().take_while(|r| matches!(r.data, RData::CNAME(_))).count();
    let addresses = &mut records[aliases..];
    if addresses.len() > 1 && addresses.iter().all(|r| matches!(r.data, RData::A(_) | RData::AAAA(_))) {
        let by = turn.checked_rem(addresses.len()).unwrap_or(0);
        addresses.rotate_left(by);
    }
}

/// The packet; of one that is too long what wasn't asked for is left out, and then all: the client asks again by TCP.
pub(crate) fn encode(mut message: Message, limit: usize) -> Vec<u8> {
    let whole = |message: &Message| message.to_vec().ok().filter(|bytes| bytes.len() <= limit);
    if let Some(bytes) = whole(&message) {
        return bytes;
    }
    message.additionals.clear();
    whole(&message).unwrap_or_else(|| {
        let mut cut = message.truncate();
        cut.metadata.truncation = true;
        cut.answers.clear();
        cut.to_vec().unwrap_or_default()
    })
}
