//! The search for devices on one node: the first choice of devices that satisfies all requests of all claims (upstream's `structured`,
//! `allocateOne`). It tries one candidate after the other and takes back what leads nowhere, on a stack of its own; how many steps it may
//! take is bound.

use std::collections::HashMap;

use apimachinery::Quantity;
use k8s_openapi::api::resource::v1::{Device, DeviceTaint, ResourceSlice};

use super::constraints::Constraint;
use super::pools::{CounterId, DeviceId, Pool, PoolState, consumption, counters_left};
use super::request::{Alternative, Claim, full_name};

/// The most devices that a claim is given (upstream's `AllocationResultsMaxSize`).
pub const MAX_RESULTS: usize = 32;

/// A device that the node can reach.
#[derive(Debug)]
pub struct Candidate<'a> {
    /// Which one.
    pub id: DeviceId,
    /// The device.
    pub device: &'a Device,
    /// Its slice.
    pub slice: &'a ResourceSlice,
    /// The index of its pool.
    pub pool: usize,
    /// What keeps it from requests that don't tolerate it: its own taints, and those of rules.
    pub taints: Vec<DeviceTaint>,
    /// A claim has it.
    pub is_allocated: bool,
}

/// Why there is no result.
#[derive(Debug, PartialEq, Eq)]
pub enum SearchError {
    /// It took too long.
    Steps,
    /// There may be a choice, but slices contradict each other.
    Invalid,
    /// A claim, a class or a slice is wrong, whichever the node is.
    Wrong(String),
}

/// A device that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The index of the request in its claim.
    pub request: usize,
    /// The index of the alternative.
    pub alternative: usize,
    /// The index of the candidate.
    pub candidate: usize,
}

/// What the search asks about a request and a candidate: whether the selectors choose it.
pub type Chooses<'m> = dyn FnMut(usize, usize, usize, &Candidate<'_>) -> Result<bool, SearchError> + 'm;

/// What is to be found next.
#[derive(Debug, Clone, Copy)]
struct Position {
    claim: usize,
    request: usize,
    alternative: Option<usize>,
    /// How many devices of the request are chosen.
    index: usize,
    /// The first candidate that is tried: the order of a request's devices means nothing.
    from: usize,
}

impl Position {
    const fn start_of(claim: usize, request: usize) -> Self {
        Position { claim, request, alternative: None, index: 0, from: 0 }
    }
}

/// A choice that can be taken back.
#[derive(Debug)]
enum Choice {
    Alternative { claim: usize, request: usize, chosen: usize },
    Device { at: Position, candidate: usize },
}

enum Next {
    Found,
    At(Position),
    Stuck,
}

/// The search.
pub struct Search<'a, 'm> {
    claims: &'a [Claim<'a>],
    pools: &'a [Pool<'a>],
    candidates: &'a [Candidate<'a>],
    chooses: &'m mut Chooses<'m>,
    steps: &'m mut usize,
    choices: Vec<Choice>,
    /// Chosen devices of each claim.
    results: Vec<Vec<Chosen>>,
    constraints: Vec<Vec<Constraint<'a>>>,
    /// For each candidate the claims that have chosen it.
    takers: HashMap<usize, Vec<usize>>,
    /// What is left of a pool's counters.
    left: HashMap<usize, HashMap<CounterId<'a>, Quantity>>,
    /// The devices of requests that want all, by claim, request and alternative.
    all: HashMap<(usize, usize, usize), Vec<usize>>,
    is_allocated: &'m dyn Fn(&DeviceId) -> bool,
}

impl<'a, 'm> Search<'a, 'm> {
    /// A search for devices of `candidates`, which are those of `pools`, in their order. `is_allocated` is also asked of devices of other nodes.
    ///
    /// # Errors
    /// When a claim asks for what can't be, whichever devices there are.
    pub fn new(
        claims: &'a [Claim<'a>],
        pools: &'a [Pool<'a>],
        candidates: &'a [Candidate<'a>],
        is_allocated: &'m dyn Fn(&DeviceId) -> bool,
        chooses: &'m mut Chooses<'m>,
        steps: &'m mut usize,
    ) -> Result<Self, SearchError> {
        let mut search = Search {
            claims,
            pools,
            candidates,
            chooses,
            steps,
            choices: Vec::new(),
            results: claims.iter().map(|_| Vec::new()).collect(),
            constraints: Vec::new(),
            takers: HashMap::new(),
            left: HashMap::new(),
            all: HashMap::new(),
            is_allocated,
        };
        for (index, claim) in claims.iter().enumerate() {
            search.look_at(index, claim)?;
        }
        Ok(search)
    }

    /// Finds out how much a claim needs at least.
    fn look_at(&mut self, index: usize, claim: &'a Claim<'a>) -> Result<(), SearchError> {
        let mut least: usize = 0;
        for (number, request) in claim.requests.iter().enumerate() {
            let mut fewest = usize::MAX;
            for (which, alternative) in request.alternatives.iter().enumerate() {
                let count = match alternative.count {
                    Some(count) => count,
                    None => self.find_all(index, number, which)?,
                };
                fewest = fewest.min(count);
            }
            least = least.saturating_add(fewest);
        }
        let name = full_name(claim.claim);
        if least > MAX_RESULTS {
            return Err(SearchError::Wrong(format!(
                "claim {name}: number of requested devices {least} exceeds the claim limit of {MAX_RESULTS}"
            )));
        }
        let mut constraints = Vec::with_capacity(claim.constraints.len());
        for (number, constraint) in claim.constraints.iter().enumerate() {
            constraints.push(Constraint::of(constraint).ok_or_else(|| {
                let why = "empty constraint (unsupported constraint type?)";
                SearchError::Wrong(format!("claim {name}, constraint #{number}: {why}"))
            })?);
        }
        self.constraints.push(constraints);
        Ok(())
    }

    /// The devices of a request that wants all of them: how many.
    fn find_all(&mut self, claim: usize, request: usize, alternative: usize) -> Result<usize, SearchError> {
        let state = |pool: &Pool<'_>| match pool.state {
            PoolState::Complete => None,
            PoolState::Incomplete => Some(format!("{}/{} is currently being updated", pool.id.0, pool.id.1)),
            PoolState::Invalid => Some(format!("{}/{} is currently invalid", pool.id.0, pool.id.1)),
        };
        if let Some(why) = self.pools.iter().find_map(state) {
            let of = &self.claims[claim];
            let name = of.requests[request].full_name(alternative);
            return Err(SearchError::Wrong(format!(
                "claim {}, request {name}: asks for all devices, but resource pool {why}",
                full_name(of.claim)
            )));
        }
        let mut found = Vec::new();
        for (number, candidate) in self.candidates.iter().enumerate() {
            if (self.chooses)(claim, request, alternative, candidate)? {
                found.push(number);
            }
        }
        let count = found.len();
        self.all.insert((claim, request, alternative), found);
        Ok(count)
    }

    /// The chosen devices of each claim; none if there is no choice that satisfies all.
    ///
    /// # Errors
    /// When it takes too long, or something is wrong.
    pub fn run(mut self) -> Result<Option<Vec<Vec<Chosen>>>, SearchError> {
        let mut at = Position::start_of(0, 0);
        loop {
            let next = match self.advance(at)? {
                Next::Found => return Ok(Some(self.results)),
                Next::At(next) => Some(next),
                Next::Stuck => self.go_back()?,
            };
            match next {
                Some(next) => at = next,
                None => return Ok(None),
            }
        }
    }

    fn step(&mut self) -> Result<(), SearchError> {
        *self.steps = self.steps.checked_sub(1).ok_or(SearchError::Steps)?;
        Ok(())
    }

    fn alternative(&self, at: Position) -> Option<(usize, &'a Alternative<'a>)> {
        let which = at.alternative?;
        let claims: &'a [Claim<'a>] = self.claims;
        Some((which, claims.get(at.claim)?.requests.get(at.request)?.alternatives.get(which)?))
    }

    fn advance(&mut self, at: Position) -> Result<Next, SearchError> {
        self.step()?;
        let Some(claim) = self.claims.get(at.claim) else { return Ok(Next::Found) };
        let Some(request) = claim.requests.get(at.request) else {
            return Ok(Next::At(Position::start_of(at.claim + 1, 0)));
        };
        let Some((which, alternative)) = self.alternative(at) else {
            if request.alternatives.len() > 1 {
                self.choices.push(Choice::Alternative { claim: at.claim, request: at.request, chosen: 0 });
            }
            return Ok(Next::At(Position { alternative: Some(0), ..at }));
        };
        let count = alternative.count.unwrap_or_else(|| self.all_of(at, which).len());
        // "All" is one at least.
        if alternative.count.is_none() && count == 0 {
            return Ok(Next::Stuck);
        }
        if at.index >= count {
            return Ok(Next::At(Position::start_of(at.claim, at.request + 1)));
        }
        if self.results[at.claim].len().saturating_add(count - at.index) > MAX_RESULTS {
            return Ok(Next::Stuck);
        }
        self.pick(at, at.from)
    }

    fn all_of(&self, at: Position, which: usize) -> &[usize] {
        self.all.get(&(at.claim, at.request, which)).map_or(&[], Vec::as_slice)
    }

    /// Chooses a device, of the candidates from a number on.
    fn pick(&mut self, at: Position, from: usize) -> Result<Next, SearchError> {
        let Some((which, alternative)) = self.alternative(at) else { return Ok(Next::Stuck) };
        let next = |candidate: usize| Next::At(Position { index: at.index + 1, from: candidate + 1, ..at });
        if alternative.count.is_none() {
            // Which ones is settled, so there is one try.
            let Some(candidate) = self.all_of(at, which).get(at.index).copied() else { return Ok(Next::Stuck) };
            let is_taken = self.take(at, which, alternative, candidate, true)?;
            return Ok(if is_taken { next(candidate) } else { Next::Stuck });
        }
        let candidates: &'a [Candidate<'a>] = self.candidates;
        for (number, candidate) in candidates.iter().enumerate().skip(from) {
            self.step()?;
            if self.pools[candidate.pool].state == PoolState::Complete
                && (self.chooses)(at.claim, at.request, which, candidate)?
                && self.take(at, which, alternative, number, false)?
            {
                return Ok(next(number));
            }
        }
        Ok(Next::Stuck)
    }

    /// Takes back the last choices until there is another one.
    fn go_back(&mut self) -> Result<Option<Position>, SearchError> {
        while let Some(choice) = self.choices.pop() {
            match choice {
                Choice::Alternative { claim, request, chosen } => {
                    let chosen = chosen + 1;
                    if chosen < self.claims[claim].requests[request].alternatives.len() {
                        self.choices.push(Choice::Alternative { claim, request, chosen });
                        return Ok(Some(Position { alternative: Some(chosen), ..Position::start_of(claim, request) }));
                    }
                }
                Choice::Device { at, candidate } => {
                    self.put_back(at, candidate);
                    let has_more = self.alternative(at).is_some_and(|(_, alternative)| alternative.count.is_some());
                    if has_more && let Next::At(next) = self.pick(at, candidate + 1)? {
                        return Ok(Some(next));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Chooses a device for a request if nobody has it and nothing speaks against it.
    fn take(
        &mut self,
        at: Position,
        which: usize,
        alternative: &Alternative<'_>,
        number: usize,
        is_needed: bool,
    ) -> Result<bool, SearchError> {
        let candidates: &'a [Candidate<'a>] = self.candidates;
        let candidate = &candidates[number];
        let takers = self.takers.get(&number).map_or(&[][..], Vec::as_slice);
        let is_in_use = match alternative.admin_access {
            true => takers.contains(&at.claim),
            false => candidate.is_allocated || !takers.is_empty(),
        };
        if is_in_use || !self.has_counters(candidate) || is_tainted(candidate, alternative) {
            return Ok(false);
        }
        let request = &self.claims[at.claim].requests[at.request];
        let name = request.full_name(which);
        let constraints = &mut self.constraints[at.claim];
        let refusing =
            constraints.iter_mut().position(|c| !c.add(request.name, &name, &candidate.id, candidate.device));
        if let Some(refusing) = refusing {
            constraints[..refusing].iter_mut().for_each(|c| c.remove(request.name, &name));
            let claim = full_name(self.claims[at.claim].claim);
            let why = format!("cannot add device {} because a claim constraint would not be satisfied", candidate.id);
            return if is_needed {
                Err(SearchError::Wrong(format!("claim {claim}, request {name}: {why}")))
            } else {
                Ok(false)
            };
        }
        self.consume(candidate, |left, amount| left - amount);
        self.takers.entry(number).or_default().push(at.claim);
        self.results[at.claim].push(Chosen { request: at.request, alternative: which, candidate: number });
        self.choices.push(Choice::Device { at, candidate: number });
        Ok(true)
    }

    fn put_back(&mut self, at: Position, number: usize) {
        let candidates: &'a [Candidate<'a>] = self.candidates;
        let candidate = &candidates[number];
        self.results[at.claim].pop();
        if let Some(takers) = self.takers.get_mut(&number) {
            takers.pop();
        }
        self.consume(candidate, |left, amount| left + amount);
        let request = &self.claims[at.claim].requests[at.request];
        let name = request.full_name(at.alternative.unwrap_or(0));
        self.constraints[at.claim].iter_mut().for_each(|c| c.remove(request.name, &name));
    }

    /// Whether a pool has what a device would use up of its counters.
    fn has_counters(&mut self, candidate: &Candidate<'a>) -> bool {
        let mut wanted = consumption(candidate.device).peekable();
        if wanted.peek().is_none() {
            return true;
        }
        let pool = &self.pools[candidate.pool];
        let is_allocated = self.is_allocated;
        let left = self.left.entry(candidate.pool).or_insert_with(|| counters_left(pool, is_allocated));
        wanted.all(|(counter, amount)| left.get(&counter).is_some_and(|left| *left >= amount))
    }

    fn consume(&mut self, candidate: &Candidate<'a>, change: impl Fn(Quantity, Quantity) -> Quantity) {
        let Some(left) = self.left.get_mut(&candidate.pool) else { return };
        for (counter, amount) in consumption(candidate.device) {
            if let Some(left) = left.get_mut(&counter) {
                *left = change(*left, amount);
            }
        }
    }
}

/// Whether a taint keeps a device from a request (KEP-5055).
fn is_tainted(candidate: &Candidate<'_>, alternative: &Alternative<'_>) -> bool {
    let mut taints =
        candidate.taints.iter().filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    taints.any(|taint| !alternative.tolerations.iter().any(|toleration| placement::tolerates_device(toleration, taint)))
}
