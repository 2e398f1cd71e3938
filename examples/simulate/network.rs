//! Links and what flows over them. A flow gets the least of an equal share of its sender's uplink and an equal share
//! of its receiver's downlink, which is about what TCP comes to over links like these.

/// Networks of up to so many links are calculated exactly.
const EXACT_MAX: usize = 40;

/// When a flow will end, unless its version has changed by then.
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
    /// Another one after each change of its rate.
    version: u32,
}

impl Flow {
    /// Goes on at another rate. Returns when it will end, if that has changed, and its version.
    fn change(&mut self, rate: f64, now: f64, versions: &mut u32) -> Option<(u32, f64)> {
        if (rate - self.rate).abs() <= self.rate * 1e-9 {
            return None;
        }
        self.left = (self.left - (now - self.since) * self.rate).max(0.0);
        *versions = versions.wrapping_add(1);
        (self.since, self.rate, self.version) = (now, rate, *versions);
        Some((self.version, now + self.left / rate))
    }
}

/// One peer's link, bytes a second.
pub struct Link {
    pub up: f64,
    pub down: f64,
    going: Vec<usize>,
    coming: Vec<usize>,
    /// The weights of all that goes, and all that comes.
    out: f64,
    into: f64,
}

impl Link {
    /// A link without flows.
    pub fn new(up: f64, down: f64) -> Self {
        Self { up, down, going: Vec::new(), coming: Vec::new(), out: 0.0, into: 0.0 }
    }
}

/// All links and flows. Time is in seconds.
pub struct Network {
    pub links: Vec<Link>,
    flows: Vec<Option<Flow>>,
    free: Vec<usize>,
    versions: u32,
}

impl Network {
    /// Links without flows.
    pub fn new(links: Vec<Link>) -> Self {
        Self { links, flows: Vec::new(), free: Vec::new(), versions: 0 }
    }

    /// Starts a flow. Returns it, and of every flow whose end has changed when it will be.
    pub fn start(
        &mut self,
        (from, to): (usize, usize),
        bytes: f64,
        (weight, most): (f64, f64),
        now: f64,
    ) -> (usize, Vec<Forecast>) {
        let flow = Some(Flow { from, to, left: bytes, weight, most, rate: 0.0, since: now, version: 0 });
        let id = self.free.pop().unwrap_or(self.flows.len());
        match self.flows.get_mut(id) {
            Some(place) => *place = flow,
            None => self.flows.push(flow),
        }
        self.links[from].going.push(id);
        self.links[to].coming.push(id);
        self.links[from].out += weight;
        self.links[to].into += weight;
        (id, self.share(from, to, now))
    }

    /// Whether what was forecast of a flow still holds.
    pub fn current(&self, id: usize, version: u32) -> bool {
        self.flows[id].as_ref().is_some_and(|flow| flow.version == version)
    }

    /// How fast a flow is, bytes a second.
    pub fn rate(&self, id: usize) -> Option<f64> {
        self.flows[id].as_ref().map(|flow| flow.rate)
    }

    /// From whom to whom a flow goes.
    pub fn ends(&self, id: usize) -> Option<(usize, usize)> {
        self.flows[id].as_ref().map(|flow| (flow.from, flow.to))
    }

    /// Ends a flow. Returns when others will end now.
    pub fn end(&mut self, id: usize, now: f64) -> Vec<Forecast> {
        let Some(flow) = self.flows[id].take() else { return Vec::new() };
        self.free.push(id);
        self.links[flow.from].going.retain(|other| *other != id);
        self.links[flow.to].coming.retain(|other| *other != id);
        self.links[flow.from].out -= flow.weight;
        self.links[flow.to].into -= flow.weight;
        self.share(flow.from, flow.to, now)
    }

    fn share(&mut self, from: usize, to: usize, now: f64) -> Vec<Forecast> {
        match self.links.len() <= EXACT_MAX {
            true => self.share_exactly(now),
            false => self.share_about(from, to, now),
        }
    }

    /// Every flow gets as much as it can without taking from one that gets less.
    fn share_exactly(&mut self, now: f64) -> Vec<Forecast> {
        // Two directions for each link: what is left of it, and the weights of those who have nothing yet.
        let mut ways: Vec<(f64, f64)> =
            self.links.iter().flat_map(|link| [(link.up, link.out), (link.down, link.into)]).collect();
        let mut rates = vec![f64::NAN; self.flows.len()];
        loop {
            let open = ways.iter().enumerate().filter(|(_, (_, weight))| *weight > 1e-6);
            let level = |(left, weight): &(f64, f64)| left.max(0.0) / weight;
            let Some((at, way)) = open.min_by(|one, two| level(one.1).total_cmp(&level(two.1))) else {
                break;
            };
            let (level, link) = (level(way), &self.links[at / 2]);
            // Who cannot use its share leaves the rest to others.
            let modest = self.flows.iter().enumerate().filter_map(|(id, flow)| Some((id, flow.as_ref()?)));
            let modest = modest.filter(|(id, flow)| rates[*id].is_nan() && flow.most < level * flow.weight);
            if let Some((id, flow)) = modest
                .min_by(|(_, one), (_, two)| (one.most / one.weight).total_cmp(&(two.most / two.weight)))
            {
                rates[id] = flow.most;
                for way in [flow.from * 2, flow.to * 2 + 1] {
                    ways[way].0 -= flow.most;
                    ways[way].1 -= flow.weight;
                }
                continue;
            }
            for id in if at % 2 == 0 { &link.going } else { &link.coming } {
                if let Some(flow) = self.flows[*id].as_ref().filter(|_| rates[*id].is_nan()) {
                    rates[*id] = (level * flow.weight).max(1.0);
                    for way in [flow.from * 2, flow.to * 2 + 1] {
                        ways[way].0 -= level * flow.weight;
                        ways[way].1 -= flow.weight;
                    }
                }
            }
            ways[at].1 = 0.0;
        }
        let mut forecasts = Vec::new();
        for (id, rate) in rates.into_iter().enumerate() {
            if let Some(flow) = self.flows[id].as_mut() {
                forecasts.extend(flow.change(rate, now, &mut self.versions).map(|(version, end)| Forecast {
                    flow: id,
                    version,
                    end,
                }));
            }
        }
        forecasts
    }

    fn share_about(&mut self, from: usize, to: usize, now: f64) -> Vec<Forecast> {
        let Self { links, flows, versions, .. } = self;
        let mut forecasts = Vec::new();
        for id in links[from].going.iter().chain(&links[to].coming) {
            let Some(flow) = flows[*id].as_mut() else { continue };
            let (sender, receiver) = (&links[flow.from], &links[flow.to]);
            let out = sender.up * flow.weight / sender.out.max(flow.weight);
            let rate = out.min(receiver.down * flow.weight / receiver.into.max(flow.weight)).min(flow.most);
            let change = flow.change(rate, now, versions);
            forecasts.extend(change.map(|(version, end)| Forecast { flow: *id, version, end }));
        }
        forecasts
    }
}
