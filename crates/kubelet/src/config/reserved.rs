//! Resources that are reserved for the system and for the kubelet (`--system-reserved`, `--kube-reserved`).

use std::collections::BTreeMap;
use std::str::FromStr;

use apimachinery::Quantity;

/// Resources that can be reserved, by upstream's names.
const RESERVABLE: [&str; 4] = ["cpu", "memory", "ephemeral-storage", "pid"];

/// Reserved amounts by resource: `cpu=200m,memory=256Mi`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reserved(BTreeMap<String, Quantity>);

/// A reservation that is malformed or exceeds the machine.
#[derive(Debug, thiserror::Error)]
pub enum BadReservation {
    /// It isn't of the form `resource=quantity`, or the resource can't be reserved.
    #[error("{0:?} is no reservation: it must be like cpu=200m or memory=256Mi, and name one of {names}", names = RESERVABLE.join(", "))]
    Malformed(String),
    /// More is reserved than the machine has.
    #[error(
        "{reserved} of {resource} can't be reserved, as the machine has {capacity}: reserve less (--kube-reserved, --system-reserved)"
    )]
    TooMuch {
        /// The name of the resource.
        resource: String,
        /// The reserved quantity.
        reserved: String,
        /// What the machine has.
        capacity: String,
    },
}

impl FromStr for Reserved {
    type Err = BadReservation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = |term: &str| {
            let (name, amount) = term.split_once('=')?;
            let amount = amount.trim().parse::<Quantity>().ok().filter(|amount| !amount.is_negative())?;
            RESERVABLE.contains(&name.trim()).then(|| (name.trim().to_string(), amount))
        };
        let terms = text.split(',').map(str::trim).filter(|term| !term.is_empty());
        let all = terms.map(|term| read(term).ok_or_else(|| BadReservation::Malformed(term.into())));
        all.collect::<Result<_, _>>().map(Reserved)
    }
}

impl Reserved {
    /// The sum of two reservations.
    pub fn and(&self, other: &Reserved) -> Reserved {
        let mut sum = self.0.clone();
        for (name, amount) in &other.0 {
            let both = sum.get(name).copied().unwrap_or_default() + *amount;
            sum.insert(name.clone(), both);
        }
        Reserved(sum)
    }

    /// The reserved amount of a resource; zero for one that isn't named.
    pub fn of(&self, resource: &str) -> Quantity {
        self.0.get(resource).copied().unwrap_or_default()
    }

    /// Whether nothing is reserved.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
