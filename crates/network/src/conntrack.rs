//! Conntrack entries of UDP (ctnetlink, `linux/netfilter/nfnetlink_conntrack.h`). An entry keeps sending a client's datagrams to the backend of
//! the first one, so it must be deleted when that backend is removed.

use std::io;
use std::net::{IpAddr, SocketAddr};

use apimachinery::Family;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;

/// An entry: where the client sends its datagrams, and the backend that replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Destination of the original direction.
    pub original_destination: SocketAddr,
    /// Source of the reply direction.
    pub reply_source: SocketAddr,
}

/// Deletes the UDP entries for which `stale` holds; returns their number.
///
/// # Errors
/// Errors of netlink(7); it needs CAP_NET_ADMIN.
pub async fn delete_entries(family: Family, stale: impl Fn(&Entry) -> bool + Send + 'static) -> io::Result<usize> {
    tokio::task::spawn_blocking(move || delete_entries_blocking(family, stale)).await?
}

fn delete_entries_blocking(family: Family, stale: impl Fn(&Entry) -> bool) -> io::Result<usize> {
    let mut found = Vec::new();
    exchange(family, ConntrackMessage::Get(Vec::new()), NLM_F_DUMP, |attributes| {
        let original = attributes.into_iter().fold((None, None), |(original, reply), attribute| match attribute {
            ConntrackAttribute::CtaTupleOrig(tuples) => (Some(tuples), reply),
            ConntrackAttribute::CtaTupleReply(tuples) => (original, Some(tuples)),
            _ => (original, reply),
        });
        if let (Some(original), Some(reply)) = original
            && let (Some((_, original_destination)), Some((reply_source, _))) = (ends(&original), ends(&reply))
            && stale(&Entry { original_destination, reply_source })
        {
            found.push(original);
        }
    })?;
    let count = found.len();
    for original in found {
        let delete = ConntrackMessage::Delete(vec![ConntrackAttribute::CtaTupleOrig(original)]);
        match exchange(family, delete, NLM_F_ACK, |_| ()) {
            // It may have expired meanwhile.
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ => {}
        }
    }
    Ok(count)
}

/// Source and destination of a tuple of UDP.
fn ends(tuples: &[Tuple]) -> Option<(SocketAddr, SocketAddr)> {
    let (mut from, mut destination) = ((None, None), (None, None));
    let mut is_udp = false;
    for tuple in tuples {
        match tuple {
            Tuple::Ip(parts) => parts.iter().for_each(|part| match part {
                IPTuple::SourceAddress(ip) => from.0 = Some(*ip),
                IPTuple::DestinationAddress(ip) => destination.0 = Some(*ip),
                _ => {}
            }),
            Tuple::Proto(parts) => parts.iter().for_each(|part| match part {
                ProtoTuple::Protocol(protocol) => is_udp = *protocol == Protocol::Udp,
                ProtoTuple::SourcePort(port) => from.1 = Some(*port),
                ProtoTuple::DestinationPort(port) => destination.1 = Some(*port),
                _ => {}
            }),
            _ => {}
        }
    }
    let end = |(address, port): (Option<IpAddr>, Option<u16>)| Some(SocketAddr::new(address?, port?));
    end(from).zip(end(destination)).filter(|_| is_udp)
}

/// Sends a request, and calls `each` with every entry of the response.
fn exchange(
    family: Family,
    request: ConntrackMessage,
    flags: u16,
    mut each: impl FnMut(Vec<ConntrackAttribute>),
) -> io::Result<()> {
    let family = match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let payload = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), request);
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(payload));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.send(&bytes, 0)?;
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(io::Error::other)?;
            // Messages begin at multiples of four (netlink(7)).
            let length = (message.header.length as usize).next_multiple_of(4).clamp(4, rest.len().max(4));
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(message) => {
                    if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner {
                        each(attributes);
                    }
                }
                _ => {}
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}
