//! What was read of a cluster, at one moment. Rules look at nothing else.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::Kind;
use crate::machine::Machine;
use crate::object::{self, text};

/// One object by its kind, namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty where the kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// One by its parts.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = if kind.resource().namespaced { namespace } else { "" };
        ObjectRef { kind, namespace: namespace.into(), name: name.into() }
    }

    /// That of an object.
    pub fn of(kind: Kind, object: &Value) -> Self {
        ObjectRef::new(kind, object::namespace(object), object::name(object))
    }

    /// As in a command: `-n shop pod web-0`.
    pub fn words(&self) -> String {
        let namespace = if self.namespace.is_empty() { String::new() } else { format!("-n {} ", self.namespace) };
        format!("{namespace}{} {}", self.kind.word(), self.name)
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.namespace.is_empty() { "" } else { "/" };
        write!(to, "{} {}{slash}{}", self.kind.resource().name, self.namespace, self.name)
    }
}

/// How a reason begins why a kind wasn't read that who asks may not list; the plural and the place follow.
pub const NOT_LISTED: &str = "you may not list";

/// How much of a kind was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Coverage {
    /// All of it.
    All,
    /// What is in one namespace.
    Namespace(String),
    /// The cluster has no such kind.
    NotServed,
    /// Nothing, and why.
    Unseen(String),
}

/// A log that a rule would like to read the end of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogOf {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container.
    pub container: String,
    /// Whether it is the log of the run before.
    pub previous: bool,
}

/// What was read of a cluster.
#[derive(Debug)]
pub struct Snapshot {
    /// When.
    pub now: Timestamp,
    /// Who asked.
    pub user: String,
    /// The version of the server.
    pub version: String,
    /// This machine, where it is one of the cluster's.
    pub machine: Option<Machine>,
    /// Last lines of logs.
    pub logs: BTreeMap<LogOf, String>,
    objects: BTreeMap<Kind, BTreeMap<(String, String), Value>>,
    coverage: BTreeMap<Kind, Coverage>,
    /// Events by what they are about, the latest first.
    events: HashMap<ObjectRef, Vec<Value>>,
}

impl Snapshot {
    /// One of nothing yet.
    pub fn new(now: Timestamp) -> Self {
        Snapshot {
            now,
            user: String::new(),
            version: String::new(),
            machine: None,
            logs: BTreeMap::new(),
            objects: BTreeMap::new(),
            coverage: BTreeMap::new(),
            events: HashMap::new(),
        }
    }

    /// Takes what was read of a kind.
    pub fn put(&mut self, kind: Kind, coverage: Coverage, objects: Vec<Value>) {
        self.coverage.insert(kind, coverage);
        if kind == Kind::Event {
            return self.put_events(objects);
        }
        let map = self.objects.entry(kind).or_default();
        for object in objects {
            map.insert((object::namespace(&object).into(), object::name(&object).into()), object);
        }
    }

    fn put_events(&mut self, events: Vec<Value>) {
        for event in events {
            let about = "/involvedObject";
            let group = text(&event, "/involvedObject/apiVersion").split_once('/').map_or("", |(group, _)| group);
            let Some(kind) = Kind::of(group, text(&event, &format!("{about}/kind"))) else { continue };
            let about =
                ObjectRef::new(kind, text(&event, "/involvedObject/namespace"), text(&event, "/involvedObject/name"));
            self.events.entry(about).or_default().push(event);
        }
        for list in self.events.values_mut() {
            list.sort_by_key(|event| std::cmp::Reverse(event_time(event)));
        }
    }

    /// Objects of a kind.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Value> {
        self.objects.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    /// Objects of a kind in a namespace.
    pub fn within(&self, kind: Kind, namespace: &str) -> impl Iterator<Item = &Value> {
        let from = (namespace.to_string(), String::new());
        let objects = self.objects.get(&kind).into_iter().flat_map(move |map| map.range(from.clone()..));
        objects.take_while(move |((of, _), _)| of == namespace).map(|(_, object)| object)
    }

    /// One object.
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Value> {
        let namespace = if kind.resource().namespaced { namespace } else { "" };
        self.objects.get(&kind)?.get(&(namespace.to_string(), name.to_string()))
    }

    /// The object of a reference.
    pub fn find(&self, object: &ObjectRef) -> Option<&Value> {
        self.get(object.kind, &object.namespace, &object.name)
    }

    /// Whether what isn't here of a kind isn't in the namespace: it was read.
    pub fn knows(&self, kind: Kind, namespace: &str) -> bool {
        match self.coverage.get(&kind) {
            Some(Coverage::All | Coverage::NotServed) => true,
            Some(Coverage::Namespace(read)) => read == namespace,
            _ => false,
        }
    }

    /// Whether an object is surely not there.
    pub fn lacks(&self, kind: Kind, namespace: &str, name: &str) -> bool {
        self.knows(kind, namespace) && self.get(kind, namespace, name).is_none()
    }

    /// How much of each kind was read.
    pub fn coverage(&self) -> impl Iterator<Item = (Kind, &Coverage)> {
        self.coverage.iter().map(|(kind, coverage)| (*kind, coverage))
    }

    /// Events about an object, the latest first. Those about one of the same name that was there before don't count.
    pub fn events(&self, kind: Kind, object: &Value) -> impl Iterator<Item = &Value> {
        let uid = text(object, "/metadata/uid");
        let list = self.events.get(&ObjectRef::of(kind, object)).into_iter().flatten();
        list.filter(move |event| {
            let about = text(event, "/involvedObject/uid");
            uid.is_empty() || about.is_empty() || about == uid
        })
    }

    /// The latest event about an object with one of these reasons.
    pub fn event(&self, kind: Kind, object: &Value, reasons: &[&str]) -> Option<&Value> {
        self.events(kind, object).find(|event| reasons.contains(&text(event, "/reason")))
    }

    /// All events with what they are about.
    pub fn all_events(&self) -> impl Iterator<Item = (&ObjectRef, &Value)> {
        self.events.iter().flat_map(|(about, list)| list.iter().map(move |event| (about, event)))
    }

    /// The end of a container's log, where it was read: of this run, else of the one before.
    pub fn log(&self, pod: &Value, container: &str, previous: bool) -> Option<&str> {
        let key = LogOf {
            namespace: object::namespace(pod).into(),
            pod: object::name(pod).into(),
            container: container.into(),
            previous,
        };
        self.logs.get(&key).map(String::as_str).filter(|log| !log.trim().is_empty())
    }
}

/// When an event was seen last.
pub fn event_time(event: &Value) -> Option<Timestamp> {
    let paths = ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"];
    paths.iter().find_map(|path| object::time(event, path))
}
