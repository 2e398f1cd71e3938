//! Links and the flows over them. Bandwidth is shared by weighted max-min fairness, which approximates TCP over such
//! links: no flow can get more without taking bandwidth from a flow that gets less for its weight.
//!
//! With few links all rates are computed exactly at each change. With many links, each direction of a link keeps a
//! level: the rate per unit of weight that its flows get unless their other end allows less. A change updates the
//! levels of the two directions that it touches, and these propagate it to others as far as it matters.
//!
//! Invariant: no direction of a link carries more than its capacity, apart from rounding.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

/// Maximum number of links for which rates are computed exactly.
const EXACT_LINKS_MAX: usize = 40;
/// Approximate number of directions that a change reaches; beyond them, only directions over capacity lower their
/// level.
const STEPS_MAX: usize = 48;
/// Relative change below which a level is not raised and not propagated.
const TOLERANCE: f64 = 0.004;
/// Share of a direction's capacity; if more than this is free, its flows are limited only by their other ends.
const FREE_SHARE_MIN: f64 = 0.000_04;
/// Share of an uplink's capacity above which packets queue.
const SATURATED_SHARE: f64 = 0.98;
/// Resolution of time, seconds.
const NANOSECOND: f64 = 1e-9;
/// Relative error that rounding may cause.
const ROUNDING: f64 = 1e-9;

/// A time at which a flow must be examined: it ends then or later.
pub struct Forecast {
    pub flow: usize,
    pub version: u32,
    pub end: f64,
}

/// A transfer of bytes over two directions.
struct Flow {
    from: usize,
    to: usize,
    left: f64,
    /// Weight relative to the other flows of the same links.
    weight: f64,
    /// Maximum rate, bytes per second: that of the source of its data.
    most: f64,
    rate: f64,
    since: f64,
    /// The end of the flow, and the time of its next examination, which is not later than its end; seconds.
    end: f64,
    due: f64,
    /// Changes each time when the examination moves to an earlier time; older forecasts are ignored.
    version: u32,
}

impl Flow {
    /// The two directions that the flow uses.
    fn directions(&self) -> [usize; 2] {
        [self.from * 2, self.to * 2 + 1]
    }

    /// Sets a new rate. Returns a forecast if the flow ends before its next examination; a later end needs no
    /// forecast, because most changes are undone long before.
    fn change(&mut self, id: usize, rate: f64, now: f64, versions: &mut u32) -> Option<Forecast> {
        if (rate - self.rate).abs() <= self.rate * ROUNDING {
            return None;
        }
        self.left = (self.left - (now - self.since) * self.rate).max(0.0);
        (self.since, self.rate, self.end) = (now, rate, now + self.left / rate);
        if self.end >= self.due {
            return None;
        }
        *versions = versions.wrapping_add(1);
        (self.due, self.version) = (self.end, *versions);
        Some(Forecast { flow: id, version: self.version, end: self.end })
    }
}

/// Capacities of one peer's link, bytes per second.
pub struct Link {
    pub up: f64,
    pub down: f64,
}

impl Link {
    /// A link with these capacities, bytes per second.
    pub fn new(up: f64, down: f64) -> Self {
        Self { up, down }
    }
}

/// The part of a flow that is needed to share one direction.
struct Lane {
    flow: usize,
    /// The direction at the other end of the flow.
    other: usize,
    weight: f64,
    /// Maximum rate per unit of weight.
    most: f64,
}

/// One direction of a link.
struct Direction {
    capacity: f64,
    lanes: Vec<Lane>,
    /// The level that was last propagated to the other ends; not lower than the current level.
    told: f64,
    /// Whether the direction is in the queue, and whether its level has changed.
    queued: bool,
    moved: bool,
    /// The level before the change.
    before: f64,
}

impl Direction {
    fn new(capacity: f64) -> Self {
        Self {
            capacity,
            lanes: Vec::new(),
            told: f64::INFINITY,
            queued: false,
            moved: false,
            before: f64::INFINITY,
        }
    }
}

/// All links and flows. Times are in seconds.
pub struct Network {
    pub links: Vec<Link>,
    /// For each link the direction out of it, then the direction into it.
    directions: Vec<Direction>,
    /// For each direction its level, infinite while there is free capacity. Separate from the directions, because a
    /// change reads many levels.
    levels: Vec<f64>,
    flows: Vec<Option<Flow>>,
    free: Vec<usize>,
    versions: u32,
    exact: bool,
    /// The directions that must be examined, and those whose level has changed; both are empty between changes.
    queue: VecDeque<usize>,
    moved: Vec<usize>,
    /// The weights of one direction's flows, and the levels that their other ends allow.
    demands: Vec<(f64, f64)>,
}

impl Network {
    /// A network without flows.
    pub fn new(links: Vec<Link>) -> Self {
        let directions =
            links.iter().flat_map(|link| [Direction::new(link.up), Direction::new(link.down)]).collect();
        Self {
            levels: vec![f64::INFINITY; links.len() * 2],
            exact: links.len() <= EXACT_LINKS_MAX,
            links,
            directions,
            flows: Vec::new(),
            free: Vec::new(),
            versions: 0,
            queue: VecDeque::new(),
            moved: Vec::new(),
            demands: Vec::new(),
        }
    }

    /// Starts a flow and returns its id. Adds a forecast for each flow whose end has changed.
    pub fn start(
        &mut self,
        (from, to): (usize, usize),
        bytes: f64,
        (weight, most): (f64, f64),
        now: f64,
        forecasts: &mut Vec<Forecast>,
    ) -> usize {
        let flow = Flow {
            from,
            to,
            left: bytes,
            weight,
            most,
            rate: 0.0,
            since: now,
            end: f64::INFINITY,
            due: f64::INFINITY,
            version: 0,
        };
        let directions = flow.directions();
        let id = self.free.pop().unwrap_or(self.flows.len());
        match self.flows.get_mut(id) {
            Some(place) => *place = Some(flow),
            None => self.flows.push(Some(flow)),
        }
        let ([out, into], most) = (directions, most / weight);
        self.directions[out].lanes.push(Lane { flow: id, other: into, weight, most });
        self.directions[into].lanes.push(Lane { flow: id, other: out, weight, most });
        self.share(directions, now, forecasts);
        // For a new flow the levels of its ends may be unchanged, so that no update has set its rate.
        self.update_rate(id, now, forecasts);
        id
    }

    /// Examines a flow at the time of a forecast. Returns whether the flow ends now; if it ends later, adds a
    /// forecast. A forecast with an old version is ignored.
    pub fn ends(&mut self, id: usize, version: u32, now: f64, forecasts: &mut Vec<Forecast>) -> bool {
        let Some(flow) = self.flows[id].as_mut().filter(|flow| flow.version == version) else { return false };
        let is_over = flow.end <= now + NANOSECOND;
        if !is_over {
            flow.due = flow.end;
            forecasts.push(Forecast { flow: id, version, end: flow.end });
        }
        is_over
    }

    /// Whether the uplink of a peer carries all that it can.
    pub fn is_saturated(&self, peer: usize) -> bool {
        let direction = &self.directions[peer * 2];
        let rates = direction.lanes.iter().filter_map(|lane| self.rate(lane.flow));
        rates.sum::<f64>() > direction.capacity * SATURATED_SHARE
    }

    /// The rate of a flow, bytes per second.
    pub fn rate(&self, id: usize) -> Option<f64> {
        self.flows[id].as_ref().map(|flow| flow.rate)
    }

    /// The sender and the receiver of a flow.
    pub fn between(&self, id: usize) -> Option<(usize, usize)> {
        self.flows[id].as_ref().map(|flow| (flow.from, flow.to))
    }

    /// Ends a flow, and adds a forecast for each flow whose end has changed.
    pub fn end(&mut self, id: usize, now: f64, forecasts: &mut Vec<Forecast>) {
        let Some(flow) = self.flows[id].take() else { return };
        self.free.push(id);
        for direction in flow.directions() {
            let lanes = &mut self.directions[direction].lanes;
            if let Some(at) = lanes.iter().position(|lane| lane.flow == id) {
                lanes.swap_remove(at);
            }
        }
        self.share(flow.directions(), now, forecasts);
    }

    fn share(&mut self, directions: [usize; 2], now: f64, forecasts: &mut Vec<Forecast>) {
        match self.exact {
            true => self.share_exactly(now, forecasts),
            false => self.share_about(directions, now, forecasts),
        }
    }

    /// Computes all rates: the direction with the lowest level fixes the rates of its flows, then the next one.
    fn share_exactly(&mut self, now: f64, forecasts: &mut Vec<Forecast>) {
        // The free capacity of each direction, and the total weight of its flows without a rate.
        let weight = |direction: &Direction| direction.lanes.iter().map(|lane| lane.weight).sum();
        let mut rooms: Vec<(f64, f64)> =
            self.directions.iter().map(|direction| (direction.capacity, weight(direction))).collect();
        let mut rates = vec![f64::NAN; self.flows.len()];
        loop {
            let open = rooms.iter().enumerate().filter(|(_, (_, weight))| *weight > 1e-6);
            let level = |(left, weight): &(f64, f64)| left.max(0.0) / weight;
            let Some((at, room)) = open.min_by(|one, two| level(one.1).total_cmp(&level(two.1))) else {
                break;
            };
            let level = level(room);
            if let Some((id, flow)) = self.slowest_limited(level, &rates) {
                rates[id] = flow.most;
                for direction in flow.directions() {
                    rooms[direction].0 -= flow.most;
                    rooms[direction].1 -= flow.weight;
                }
                continue;
            }
            for id in self.directions[at].lanes.iter().map(|lane| lane.flow) {
                if let Some(flow) = self.flows[id].as_ref().filter(|_| rates[id].is_nan()) {
                    rates[id] = (level * flow.weight).max(1.0);
                    for direction in flow.directions() {
                        rooms[direction].0 -= level * flow.weight;
                        rooms[direction].1 -= flow.weight;
                    }
                }
            }
            rooms[at].1 = 0.0;
        }
        for (id, rate) in rates.into_iter().enumerate() {
            if let Some(flow) = self.flows[id].as_mut() {
                forecasts.extend(flow.change(id, rate, now, &mut self.versions));
            }
        }
    }

    /// The flow with the lowest maximum rate per weight among those that cannot use their share at this level.
    fn slowest_limited(&self, level: f64, rates: &[f64]) -> Option<(usize, &Flow)> {
        let flows = self.flows.iter().enumerate().filter_map(|(id, flow)| Some((id, flow.as_ref()?)));
        let limited = flows.filter(|(id, flow)| rates[*id].is_nan() && flow.most < level * flow.weight);
        limited.min_by(|(_, one), (_, two)| (one.most / one.weight).total_cmp(&(two.most / two.weight)))
    }

    /// Updates the levels of two directions, and of the other directions that the change affects.
    fn share_about(&mut self, directions: [usize; 2], now: f64, forecasts: &mut Vec<Forecast>) {
        directions.into_iter().for_each(|direction| self.look_at(direction));
        let mut steps = 0;
        while let Some(direction) = self.queue.pop_front() {
            steps += 1;
            self.directions[direction].queued = false;
            // Directions in the queue count as well: each must be examined, because it may be over capacity.
            self.settle(direction, steps <= directions.len() || steps + self.queue.len() <= STEPS_MAX);
        }
        let mut moved = std::mem::take(&mut self.moved);
        for direction in moved.drain(..) {
            self.directions[direction].moved = false;
            // A flow whose other end had and has a lower level keeps its rate, or gets a new one from there.
            let least = self.directions[direction].before.min(self.levels[direction]);
            for at in 0..self.directions[direction].lanes.len() {
                let Lane { flow, other, .. } = self.directions[direction].lanes[at];
                if self.levels[other] >= least {
                    self.update_rate(flow, now, forecasts);
                }
            }
        }
        self.moved = moved;
    }

    fn look_at(&mut self, direction: usize) {
        if !std::mem::replace(&mut self.directions[direction].queued, true) {
            self.queue.push_back(direction);
        }
    }

    /// Sets a direction's level to the value at which it is full. If there is no time, the level is only lowered and
    /// not propagated: a lower level never puts another direction over capacity.
    fn settle(&mut self, at: usize, has_time: bool) {
        let (old, told) = (self.levels[at], self.directions[at].told);
        let (level, room) = self.fill(at);
        // With free capacity the level becomes infinite: the rates of its flows may be limited only by levels that
        // this direction propagated before.
        let rises = match level.is_finite() {
            true => level > old * (1.0 + TOLERANCE),
            false => old.is_finite() && room > self.directions[at].capacity * FREE_SHARE_MIN,
        };
        if level >= old * (1.0 - ROUNDING) && !(rises && has_time) {
            return;
        }
        self.levels[at] = level;
        if !std::mem::replace(&mut self.directions[at].moved, true) {
            self.directions[at].before = old;
            self.moved.push(at);
        }
        if !has_time || !rises && level >= told * (1.0 - TOLERANCE) {
            return;
        }
        self.directions[at].told = level;
        // Ends whose level was and is lower than this one are not affected.
        let least = told.min(old).min(level);
        for lane in 0..self.directions[at].lanes.len() {
            let other = self.directions[at].lanes[lane].other;
            if self.levels[other] >= least {
                self.look_at(other);
            }
        }
    }

    /// The level at which a direction is full, given the limits of its flows at their other ends, and its free
    /// capacity.
    fn fill(&mut self, at: usize) -> (f64, f64) {
        let Self { directions, levels, demands, .. } = self;
        demands.clear();
        demands
            .extend(directions[at].lanes.iter().map(|lane| (lane.weight, levels[lane.other].min(lane.most))));
        let mut left = directions[at].capacity;
        while !demands.is_empty() {
            let level = left.max(0.0) / demands.iter().map(|(weight, _)| weight).sum::<f64>();
            let open = demands.len();
            // Flows that are limited at their other end leave the rest to the others.
            demands.retain(|(weight, other)| {
                let is_less = *other <= level;
                left -= if is_less { weight * other } else { 0.0 };
                !is_less
            });
            if demands.len() == open {
                return (level, 0.0);
            }
        }
        (f64::INFINITY, left)
    }

    /// Sets the rate of a flow from the levels of its two ends.
    fn update_rate(&mut self, id: usize, now: f64, forecasts: &mut Vec<Forecast>) {
        if self.exact {
            return;
        }
        let Some(flow) = self.flows[id].as_mut() else { return };
        let [out, into] = flow.directions();
        let level = self.levels[out].min(self.levels[into]);
        let rate = (level * flow.weight).min(flow.most).max(1.0);
        forecasts.extend(flow.change(id, rate, now, &mut self.versions));
    }
}
