//! The resolver configuration of pods.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;

use crate::config::Config;

/// What resolvers take (resolv.conf(5); upstream's limits): servers, search domains, bytes of a search domain and of all of them.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_BYTES: usize = 253;
const MAX_SEARCH_LINE_BYTES: usize = 2048;

/// The resolver configuration of a pod: `dnsPolicy` and `dnsConfig` (upstream's `GetPodDNS`), and what is to be told of it.
pub fn resolver(config: &Config, spec: &PodSpec, namespace: &str) -> (Resolver, Vec<String>) {
    unbounded_resolver(config, spec, namespace).fit()
}

fn unbounded_resolver(config: &Config, spec: &PodSpec, namespace: &str) -> Resolver {
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let of_host = policy == "Default" || (policy == "ClusterFirst" && spec.host_network == Some(true));
    let dns = config.cluster_dns;
    let of_machine =
        || Resolver::read(&bounded::text(&config.resolv_conf, bounded::MAX_OWN_FILE_BYTES).unwrap_or_default());
    let mut resolver = match policy {
        _ if of_host && spec.host_network == Some(true) => of_machine(),
        _ if of_host => of_machine().reachable(dns),
        "None" => Resolver::default(),
        _ => {
            let domain = &config.cluster_domain;
            let mut resolver = Resolver {
                searches: vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()],
                servers: vec![dns.to_string()],
                options: vec!["ndots:5".into()],
            };
            // As upstream: names of the machine's own domains are found, too.
            resolver.add(of_machine().searches, Vec::new(), Vec::new());
            resolver
        }
    };
    let custom = spec.dns_config.clone().unwrap_or_default();
    let own = custom.options.into_iter().flatten().map(|option| {
        let name = option.name.unwrap_or_default();
        option.value.filter(|value| !value.is_empty()).map_or(name.clone(), |value| format!("{name}:{value}"))
    });
    resolver.add(custom.searches.unwrap_or_default(), custom.nameservers.unwrap_or_default(), own.collect());
    resolver
}

/// What a resolv.conf says (resolv.conf(5)).
#[derive(Debug, Default, PartialEq)]
pub struct Resolver {
    /// Search domains, in order.
    pub searches: Vec<String>,
    /// Addresses of servers, in order.
    pub servers: Vec<String>,
    /// `name` or `name:value`.
    pub options: Vec<String>,
}

impl Resolver {
    fn read(text: &str) -> Self {
        let mut resolver = Resolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let key = words.next().unwrap_or("");
            let words = words.map(String::from);
            match key {
                // The last one counts. A dot at the end makes no other domain, and the root is searched in any case.
                "search" => {
                    let domains = words.filter(|word| word != ".");
                    resolver.searches = domains.map(|word| word.strip_suffix('.').unwrap_or(&word).into()).collect();
                }
                "nameserver" => resolver.servers.extend(words.take(1)),
                "options" => resolver.options.extend(words),
                _ => {}
            }
        }
        resolver
    }

    /// For a pod, in whose network the machine's loopback isn't (systemd-resolved and dnsmasq listen there): the cluster's DNS, which asks
    /// the machine's resolvers, stands for it.
    fn reachable(mut self, dns: IpAddr) -> Self {
        let is_loopback = |server: &String| server.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if self.servers.iter().any(is_loopback) {
            self.servers.retain(|server| !is_loopback(server));
            self.servers.insert(0, dns.to_string());
        }
        self
    }

    /// Adds what isn't there; an option takes the place of one with the same name.
    fn add(&mut self, searches: Vec<String>, servers: Vec<String>, options: Vec<String>) {
        fn append(list: &mut Vec<String>, more: Vec<String>) {
            for item in more {
                if !list.contains(&item) {
                    list.push(item);
                }
            }
        }
        append(&mut self.searches, searches);
        append(&mut self.servers, servers);
        let name = |option: &str| option.split(':').next().unwrap_or("").to_string();
        for option in options {
            match self.options.iter_mut().find(|old| name(old) == name(&option)) {
                Some(old) => *old = option,
                None => self.options.push(option),
            }
        }
    }

    /// Leaves out what resolvers wouldn't take, and tells of it in upstream's words.
    fn fit(mut self) -> (Self, Vec<String>) {
        let mut told = Vec::new();
        if self.servers.len() > MAX_SERVERS {
            self.servers.truncate(MAX_SERVERS);
            told.push(format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
                self.servers.join(" ")
            ));
        }
        let before = self.searches.len();
        self.searches.truncate(MAX_SEARCHES);
        self.searches.retain(|domain| domain.len() <= MAX_SEARCH_BYTES);
        while self.searches.join(" ").len() > MAX_SEARCH_LINE_BYTES {
            self.searches.pop();
        }
        if self.searches.len() < before {
            told.push(format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
                self.searches.join(" ")
            ));
        }
        (self, told)
    }

    /// The text of a `resolv.conf`.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (key, words) in [("search", &self.searches), ("options", &self.options)] {
            if key == "options" {
                self.servers.iter().for_each(|server| text.push_str(&format!("nameserver {server}\n")));
            }
            if !words.is_empty() {
                text.push_str(&format!("{key} {}\n", words.join(" ")));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_merged() {
        let words = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
        let mut resolver =
            Resolver::read("# c\nsearch old\nsearch a b\nnameserver 192.0.2.1\noptions ndots:5 rotate\n");
        resolver.add(words("b c"), words("192.0.2.1 192.0.2.2"), words("ndots:2 edns0"));
        let wanted = "search a b c\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots:2 rotate edns0\n";
        assert_eq!(resolver.text(), wanted);
        assert_eq!(Resolver::default().text(), "");
        let dns = "10.43.0.10".parse().unwrap();
        let stub = Resolver::read("nameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.1\nsearch corp.example\n");
        let wanted = "search corp.example\nnameserver 10.43.0.10\nnameserver 192.0.2.1\n";
        assert_eq!(stub.reachable(dns).text(), wanted);
        assert_eq!(Resolver::read("search a. . b a.b.\n").searches, ["a", "b", "a.b"]);
    }

    #[test]
    fn what_resolvers_do_not_take_is_left_out_and_told() {
        let fitted = |searches: Vec<String>, servers: usize| {
            let servers = (1..=servers).map(|n| format!("192.0.2.{n}")).collect();
            Resolver { searches, servers, options: Vec::new() }.fit()
        };
        let many = |count: usize, length: usize| (0..count).map(|n| format!("{n:0length$}")).collect::<Vec<_>>();
        assert_eq!(fitted(many(32, 4), 3).1, [""; 0]);
        let (resolver, told) = fitted(Vec::new(), 4);
        assert_eq!(resolver.servers.len(), 3);
        let wanted = "Nameserver limits were exceeded, some nameservers have been omitted, \
                      the applied nameserver line is: 192.0.2.1 192.0.2.2 192.0.2.3";
        assert_eq!(told, [wanted]);
        for (searches, left) in [(many(33, 4), 32), (many(1, 254), 0), (many(20, 204), 9), (many(32, 63), 32)] {
            let (resolver, told) = fitted(searches, 1);
            assert_eq!(resolver.searches.len(), left);
            assert_eq!(told.len(), usize::from(left != 32 || resolver.searches[0].len() == 4), "{told:?}");
        }
    }
}
