//! What `port-forward` is asked for: which local ports lead to which of the pod, and where this program listens.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use crate::error::{Error, Result, fail};

/// One pair of ports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// 0 is any that is free.
    pub local: u16,
    pub remote: u16,
}

/// One address to listen on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Address {
    pub ip: IpAddr,
    /// One of those of `localhost`, of which one is enough.
    pub spare: bool,
}

/// The addresses of `--address`, in upstream's order: by their text.
///
/// # Errors
/// For one that is neither `localhost` nor an IP address.
pub fn addresses(given: &[String]) -> Result<Vec<Address>> {
    let mut all: Vec<Address> = Vec::new();
    let mut add = |ip: IpAddr, spare: bool| match all.iter_mut().find(|a| a.ip == ip) {
        Some(there) => there.spare &= spare,
        None => all.push(Address { ip, spare }),
    };
    for text in given {
        if text == "localhost" {
            add(Ipv4Addr::LOCALHOST.into(), true);
            add(Ipv6Addr::LOCALHOST.into(), true);
        } else {
            let ip = text.parse().map_err(|_| Error::Message(format!("{text} is not a valid IP")))?;
            add(ip, false);
        }
    }
    all.sort_by_key(|a| a.ip.to_string());
    Ok(all)
}

/// The pairs that the words mean for a pod, or a service of it.
///
/// # Errors
/// For words that are no ports, names that neither has, and ports of UDP.
pub fn pairs(words: &[String], service: Option<&Value>, pod: &Value) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for word in words {
        let (local, remote) = match word.split(':').collect::<Vec<_>>()[..] {
            [one] => (one, one),
            [local, remote] => (local, remote),
            _ => return fail(format!("invalid port format '{word}'")),
        };
        if remote.is_empty() {
            return fail("remote port cannot be empty");
        }
        let named = remote.parse::<i64>().is_err();
        let (asked, target) = match service {
            Some(service) => of_service(service, pod, remote)?,
            None => {
                let number = if named { of_pod(pod, remote)?.to_string() } else { remote.to_string() };
                refuse_udp(container_ports(pod, false), "containerPort", &number, remote)?;
                (number.clone(), number)
            }
        };
        let local = match local {
            "" => "0".to_string(),
            local if local == remote => asked,
            local => local.to_string(),
        };
        let (local, remote) = (number(&local, "local")?, number(&target, "remote")?);
        if remote == 0 {
            return fail("remote port must be > 0");
        }
        pairs.push(Pair { local, remote });
    }
    Ok(pairs)
}

fn number(text: &str, which: &str) -> Result<u16> {
    text.parse().map_err(|_| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let problem = if digits { "value out of range" } else { "invalid syntax" };
        Error::Message(format!("error parsing {which} port '{text}': strconv.ParseUint: parsing {text:?}: {problem}"))
    })
}

/// Refuses a port that is only one of UDP: what is forwarded are streams.
fn refuse_udp<'a>(ports: impl Iterator<Item = &'a Value>, field: &str, number: &str, word: &str) -> Result<()> {
    let (mut udp, mut tcp) = (false, false);
    for port in ports.filter(|p| p[field].as_i64().is_some_and(|n| n.to_string() == number)) {
        udp |= port["protocol"] == "UDP";
        tcp |= port["protocol"].is_null() || port["protocol"] == "TCP";
    }
    if udp && !tcp { fail(format!("UDP protocol is not supported for {word}")) } else { Ok(()) }
}

fn container_ports(pod: &Value, initial: bool) -> impl Iterator<Item = &Value> {
    let init = pod["spec"]["initContainers"].as_array().into_iter().flatten().filter(move |_| initial);
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    containers.chain(init).flat_map(|c| c["ports"].as_array().into_iter().flatten())
}

fn of_pod(pod: &Value, name: &str) -> Result<i64> {
    let found = container_ports(pod, true).find(|p| p["name"] == name).and_then(|p| p["containerPort"].as_i64());
    let own = pod["metadata"]["name"].as_str().unwrap_or("");
    found.ok_or_else(|| Error::Message(format!("Pod '{own}' does not have a named port '{name}'")))
}

/// The port of a service, and the one of the pod that it leads to.
fn of_service(service: &Value, pod: &Value, word: &str) -> Result<(String, String)> {
    let own = service["metadata"]["name"].as_str().unwrap_or("");
    let ports = || service["spec"]["ports"].as_array().into_iter().flatten();
    let number = match word.parse::<i64>() {
        Ok(number) => number,
        Err(_) => {
            let found = ports().find(|p| p["name"] == word).and_then(|p| p["port"].as_i64());
            found.ok_or_else(|| Error::Message(format!("Service '{own}' does not have a named port '{word}'")))?
        }
    };
    refuse_udp(ports(), "port", &number.to_string(), word)?;
    let Some(port) = ports().find(|p| p["port"] == number) else {
        return fail(format!("Service {own} does not have a service port {number}"));
    };
    let target = &port["targetPort"];
    let target = match (target.as_i64(), target.as_str()) {
        // A headless service has no addresses at which its ports would count.
        _ if service["spec"]["clusterIP"] == "None" => number,
        (Some(0), _) | (None, None) => number,
        (Some(target), _) => target,
        (None, Some(name)) => of_pod(pod, name)?,
    };
    Ok((number.to_string(), target.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080},
            {"name": "dns", "containerPort": 53, "protocol": "UDP"}, {"containerPort": 54, "protocol": "UDP"}, {"containerPort": 54}]}]}})
    }

    fn read(words: &[&str], service: Option<&Value>) -> Result<Vec<(u16, u16)>> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        Ok(pairs(&words, service, &pod())?.iter().map(|p| (p.local, p.remote)).collect())
    }

    #[test]
    fn ports_of_pods_are_numbers_names_and_pairs() {
        let found = read(&["5000", "8888:80", ":80", "0:80", "http", "81:http", "54"], None).unwrap();
        assert_eq!(found, [(5000, 5000), (8888, 80), (0, 80), (0, 80), (8080, 8080), (81, 8080), (54, 54)]);
        for (word, text) in [
            ("a:b:c", "invalid port format 'a:b:c'"),
            ("80:", "remote port cannot be empty"),
            ("80:0", "remote port must be > 0"),
            ("x:80", "error parsing local port 'x': strconv.ParseUint: parsing \"x\": invalid syntax"),
            ("70000", "error parsing local port '70000': strconv.ParseUint: parsing \"70000\": value out of range"),
            ("web", "Pod 'p' does not have a named port 'web'"),
            ("53", "UDP protocol is not supported for 53"),
            ("dns", "UDP protocol is not supported for dns"),
        ] {
            assert_eq!(read(&[word], None).unwrap_err().text(), text, "{word}");
        }
    }

    #[test]
    fn ports_of_services_lead_to_their_target_ports() {
        let mut service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "web", "port": 80, "targetPort": "http"},
            {"port": 81, "targetPort": 9}, {"port": 82}, {"port": 83, "protocol": "UDP"}]}});
        let found = read(&["80", "web", "8443:web", ":81", "82"], Some(&service)).unwrap();
        assert_eq!(found, [(80, 8080), (80, 8080), (8443, 8080), (0, 9), (82, 82)]);
        for (word, text) in [
            ("7", "Service s does not have a service port 7"),
            ("x", "Service 's' does not have a named port 'x'"),
            ("83", "UDP protocol is not supported for 83"),
        ] {
            assert_eq!(read(&[word], Some(&service)).unwrap_err().text(), text);
        }
        service["spec"]["clusterIP"] = "None".into();
        assert_eq!(read(&["81"], Some(&service)).unwrap(), [(81, 81)]);
    }

    #[test]
    fn localhost_is_both_addresses_of_which_one_is_enough() {
        let read = |text: &str| addresses(&text.split(',').map(String::from).collect::<Vec<_>>());
        let shown = |all: Vec<Address>| all.iter().map(|a| (a.ip.to_string(), a.spare)).collect::<Vec<_>>();
        assert_eq!(shown(read("localhost").unwrap()), [("127.0.0.1".into(), true), ("::1".into(), true)]);
        assert_eq!(shown(read("127.0.0.1,localhost,10.0.0.1").unwrap()).len(), 3);
        assert_eq!(read("example.com").unwrap_err().text(), "example.com is not a valid IP");
    }
}
