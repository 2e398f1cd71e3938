//! Links and what flows over them. Every flow gets as much as it can without taking from one that gets less for its
//! weight (weighted max-min), which is about what TCP comes to over links like these.
//!
//! With few links that is calculated exactly, all of it at each change. With many, each direction of a link keeps a
//! level: what a flow gets for each unit of weight unless its other end gives it less. A change moves the levels of the
//! two directions that it touches, and those pass it on to others as far as it matters.
//!
//! Invariant: no direction of a link carries more than it can, but for rounding.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

/// Networks of up to so many links are calculated exactly.
const EXACT_MAX: usize = 40;
/// A change is passed on to about so many directions of links; beyond that, only what is too full gives way.
const STEPS_MAX: usize = 48;
/// A level does not rise for less than this share of itself, and others are not told of less.
const TOLERANCE: f64 = 0.004;
/// A direction with so much of it left lets its flows have what their other ends give.
const ROOM: f64 = 0.000_04;
/// Time is counted in these, seconds.
const NANOSECOND: f64 = 1e-9;
/// What is nothing but rounding.
const ROUNDING: f64 = 1e-9;

/// When a flow is to be looked at: it ends then, or later.
pub struct Forecast {
    pub flow: usize,
    pub version: u32,
    pub end: f64,
}

/// Bytes on their way.
struct Flow {
    from: usize,
    to: usize,
    left: f64,
    /// Against the other flows of the same links.
    weight: f64,
    /// It is not faster than this: what it carries does not come faster.
    most: f64,
    rate: f64,
    since: f64,
    /// When it will end, and when that is to be looked at: no later.
    end: f64,
    due: f64,
    /// Another one whenever it is to be looked at earlier.
    version: u32,
}

impl Flow {
    /// The two directions that it takes.
    fn ways(&self) -> [usize; 2] {
        [self.from * 2, self.to * 2 + 1]
    }

    /// Goes on at another rate. Returns when it will end, if that is earlier than it was to be looked at: most changes
    /// are undone long before.
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

/// One peer's link, bytes a second.
pub struct Link {
    pub up: f64,
    pub down: f64,
}

impl Link {
    /// A link that carries so much.
    pub fn new(up: f64, down: f64) -> Self {
        Self { up, down }
    }
}

/// A flow as one direction sees it: all that is needed to share the direction out.
struct Lane {
    flow: usize,
    /// The direction at the flow's other end.
    other: usize,
    weight: f64,
    /// It is not faster than this for each unit of weight.
    most: f64,
}

/// One direction of a link.
struct Way {
    capacity: f64,
    lanes: Vec<Lane>,
    /// What its flows' other ends have been told of its level: no less than it is.
    told: f64,
    /// Whether it is to be looked at, and whether its level has moved.
    queued: bool,
    moved: bool,
    /// Its level before it moved.
    before: f64,
}

impl Way {
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

/// All links and flows. Time is in seconds.
pub struct Network {
    pub links: Vec<Link>,
    /// Out of each link, and into it.
    ways: Vec<Way>,
    /// Of each of these, what a flow gets for its weight unless its other end gives it less; without bound as long as
    /// there is room. Apart from the rest, because a change looks at many of them.
    levels: Vec<f64>,
    flows: Vec<Option<Flow>>,
    free: Vec<usize>,
    versions: u32,
    exact: bool,
    /// The directions to be looked at, and those whose level has moved: empty between changes.
    queue: VecDeque<usize>,
    moved: Vec<usize>,
    /// The weights of one direction's flows, and what their other ends give.
    demands: Vec<(f64, f64)>,
}

impl Network {
    /// Links without flows.
    pub fn new(links: Vec<Link>) -> Self {
        let ways = links.iter().flat_map(|link| [Way::new(link.up), Way::new(link.down)]).collect();
        Self {
            levels: vec![f64::INFINITY; links.len() * 2],
            exact: links.len() <= EXACT_MAX,
            links,
            ways,
            flows: Vec::new(),
            free: Vec::new(),
            versions: 0,
            queue: VecDeque::new(),
            moved: Vec::new(),
            demands: Vec::new(),
        }
    }

    /// Starts a flow and returns it. Of every flow whose end has changed, forecasts it.
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
        let ways = flow.ways();
        let id = self.free.pop().unwrap_or(self.flows.len());
        match self.flows.get_mut(id) {
            Some(place) => *place = Some(flow),
            None => self.flows.push(Some(flow)),
        }
        let ([out, into], most) = (ways, most / weight);
        self.ways[out].lanes.push(Lane { flow: id, other: into, weight, most });
        self.ways[into].lanes.push(Lane { flow: id, other: out, weight, most });
        self.share(ways, now, forecasts);
        // Neither end's level need have moved for a new one.
        self.pace(id, now, forecasts);
        id
    }

    /// Looks at a flow when it was forecast to end. Returns whether it does, or forecasts when; neither if the forecast
    /// does not hold any more.
    pub fn ends(&mut self, id: usize, version: u32, now: f64, forecasts: &mut Vec<Forecast>) -> bool {
        let Some(flow) = self.flows[id].as_mut().filter(|flow| flow.version == version) else { return false };
        let is_over = flow.end <= now + NANOSECOND;
        if !is_over {
            flow.due = flow.end;
            forecasts.push(Forecast { flow: id, version, end: flow.end });
        }
        is_over
    }

    /// How fast a flow is, bytes a second.
    pub fn rate(&self, id: usize) -> Option<f64> {
        self.flows[id].as_ref().map(|flow| flow.rate)
    }

    /// From whom to whom a flow goes.
    pub fn between(&self, id: usize) -> Option<(usize, usize)> {
        self.flows[id].as_ref().map(|flow| (flow.from, flow.to))
    }

    /// Ends a flow. Forecasts when others will end now.
    pub fn end(&mut self, id: usize, now: f64, forecasts: &mut Vec<Forecast>) {
        let Some(flow) = self.flows[id].take() else { return };
        self.free.push(id);
        for way in flow.ways() {
            let lanes = &mut self.ways[way].lanes;
            if let Some(at) = lanes.iter().position(|lane| lane.flow == id) {
                lanes.swap_remove(at);
            }
        }
        self.share(flow.ways(), now, forecasts);
    }

    fn share(&mut self, ways: [usize; 2], now: f64, forecasts: &mut Vec<Forecast>) {
        match self.exact {
            true => self.share_exactly(now, forecasts),
            false => self.share_about(ways, now, forecasts),
        }
    }

    /// Calculates everything anew: the direction with the lowest level decides for its flows, then the next one.
    fn share_exactly(&mut self, now: f64, forecasts: &mut Vec<Forecast>) {
        // What is left of each direction, and the weights of those who have nothing yet.
        let weight = |way: &Way| way.lanes.iter().map(|lane| lane.weight).sum();
        let mut rooms: Vec<(f64, f64)> = self.ways.iter().map(|way| (way.capacity, weight(way))).collect();
        let mut rates = vec![f64::NAN; self.flows.len()];
        loop {
            let open = rooms.iter().enumerate().filter(|(_, (_, weight))| *weight > 1e-6);
            let level = |(left, weight): &(f64, f64)| left.max(0.0) / weight;
            let Some((at, room)) = open.min_by(|one, two| level(one.1).total_cmp(&level(two.1))) else {
                break;
            };
            let level = level(room);
            if let Some((id, flow)) = self.most_modest(level, &rates) {
                rates[id] = flow.most;
                for way in flow.ways() {
                    rooms[way].0 -= flow.most;
                    rooms[way].1 -= flow.weight;
                }
                continue;
            }
            for id in self.ways[at].lanes.iter().map(|lane| lane.flow) {
                if let Some(flow) = self.flows[id].as_ref().filter(|_| rates[id].is_nan()) {
                    rates[id] = (level * flow.weight).max(1.0);
                    for way in flow.ways() {
                        rooms[way].0 -= level * flow.weight;
                        rooms[way].1 -= flow.weight;
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

    /// Of those that cannot use their share at a level, and leave the rest to others, the one that needs least.
    fn most_modest(&self, level: f64, rates: &[f64]) -> Option<(usize, &Flow)> {
        let flows = self.flows.iter().enumerate().filter_map(|(id, flow)| Some((id, flow.as_ref()?)));
        let modest = flows.filter(|(id, flow)| rates[*id].is_nan() && flow.most < level * flow.weight);
        modest.min_by(|(_, one), (_, two)| (one.most / one.weight).total_cmp(&(two.most / two.weight)))
    }

    /// Moves the levels of two directions, and of whatever else that matters to.
    fn share_about(&mut self, ways: [usize; 2], now: f64, forecasts: &mut Vec<Forecast>) {
        ways.into_iter().for_each(|way| self.look_at(way));
        let mut steps = 0;
        while let Some(way) = self.queue.pop_front() {
            steps += 1;
            self.ways[way].queued = false;
            // What waits counts, too: it has to be looked at, as it may be too full.
            self.settle(way, steps <= ways.len() || steps + self.queue.len() <= STEPS_MAX);
        }
        let mut moved = std::mem::take(&mut self.moved);
        for way in moved.drain(..) {
            self.ways[way].moved = false;
            // What the other end kept and keeps below that goes on as it did, or is seen to from there.
            let least = self.ways[way].before.min(self.levels[way]);
            for at in 0..self.ways[way].lanes.len() {
                let Lane { flow, other, .. } = self.ways[way].lanes[at];
                if self.levels[other] >= least {
                    self.pace(flow, now, forecasts);
                }
            }
        }
        self.moved = moved;
    }

    fn look_at(&mut self, way: usize) {
        if !std::mem::replace(&mut self.ways[way].queued, true) {
            self.queue.push_back(way);
        }
    }

    /// Moves a direction's level to where it is full. Upwards, and told to others, only when there is time for it: giving
    /// way makes nobody else too full.
    fn settle(&mut self, at: usize, has_time: bool) {
        let (old, told) = (self.levels[at], self.ways[at].told);
        let (level, room) = self.fill(at);
        // Without bound it is as soon as there is some room: what its flows get may be limited by nothing but what it
        // told their other ends before.
        let rises = match level.is_finite() {
            true => level > old * (1.0 + TOLERANCE),
            false => old.is_finite() && room > self.ways[at].capacity * ROOM,
        };
        if level >= old * (1.0 - ROUNDING) && !(rises && has_time) {
            return;
        }
        self.levels[at] = level;
        if !std::mem::replace(&mut self.ways[at].moved, true) {
            self.ways[at].before = old;
            self.moved.push(at);
        }
        if !has_time || !rises && level >= told * (1.0 - TOLERANCE) {
            return;
        }
        self.ways[at].told = level;
        // To whom the own level was lower than this one's, and is, nothing changes.
        let least = told.min(old).min(level);
        for lane in 0..self.ways[at].lanes.len() {
            let other = self.ways[at].lanes[lane].other;
            if self.levels[other] >= least {
                self.look_at(other);
            }
        }
    }

    /// The level at which a direction is full, given what the other ends of its flows allow, and what is left of it.
    fn fill(&mut self, at: usize) -> (f64, f64) {
        let Self { ways, levels, demands, .. } = self;
        demands.clear();
        demands.extend(ways[at].lanes.iter().map(|lane| (lane.weight, levels[lane.other].min(lane.most))));
        let mut left = ways[at].capacity;
        while !demands.is_empty() {
            let level = left.max(0.0) / demands.iter().map(|(weight, _)| weight).sum::<f64>();
            let open = demands.len();
            // Those whose other end gives them less leave the rest to the others.
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

    /// Gives a flow what the levels of its two ends say.
    fn pace(&mut self, id: usize, now: f64, forecasts: &mut Vec<Forecast>) {
        if self.exact {
            return;
        }
        let Some(flow) = self.flows[id].as_mut() else { return };
        let [out, into] = flow.ways();
        let level = self.levels[out].min(self.levels[into]);
        let rate = (level * flow.weight).min(flow.most).max(1.0);
        forecasts.extend(flow.change(id, rate, now, &mut self.versions));
    }
}
