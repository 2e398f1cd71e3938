//! Links and what flows over them. A flow gets the least of an equal share of its sender's uplink and an equal share
//! of its receiver's downlink, which is about what TCP comes to over links like these.

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
    rate: f64,
    since: f64,
    /// Another one after each change of its rate.
    version: u32,
}

/// One peer's link, bytes a second.
pub struct Link {
    pub up: f64,
    pub down: f64,
    going: Vec<usize>,
    coming: Vec<usize>,
}

impl Link {
    /// A link without flows.
    pub fn new(up: f64, down: f64) -> Self {
        Self { up, down, going: Vec::new(), coming: Vec::new() }
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
    pub fn start(&mut self, from: usize, to: usize, bytes: f64, now: f64) -> (usize, Vec<Forecast>) {
        let flow = Some(Flow { from, to, left: bytes, rate: 0.0, since: now, version: 0 });
        let id = self.free.pop().unwrap_or(self.flows.len());
        match self.flows.get_mut(id) {
            Some(place) => *place = flow,
            None => self.flows.push(flow),
        }
        self.links[from].going.push(id);
        self.links[to].coming.push(id);
        (id, self.share(from, to, now))
    }

    /// Whether what was forecast of a flow still holds.
    pub fn current(&self, id: usize, version: u32) -> bool {
        self.flows[id].as_ref().is_some_and(|flow| flow.version == version)
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
        self.share(flow.from, flow.to, now)
    }

    fn share(&mut self, from: usize, to: usize, now: f64) -> Vec<Forecast> {
        let Self { links, flows, versions, .. } = self;
        let mut forecasts = Vec::new();
        for id in links[from].going.iter().chain(&links[to].coming) {
            let Some(flow) = flows[*id].as_mut() else { continue };
            let (sender, receiver) = (&links[flow.from], &links[flow.to]);
            let out = sender.up / sender.going.len() as f64;
            let rate = out.min(receiver.down / receiver.coming.len() as f64);
            if rate != flow.rate {
                flow.left = (flow.left - (now - flow.since) * flow.rate).max(0.0);
                *versions = versions.wrapping_add(1);
                (flow.since, flow.rate, flow.version) = (now, rate, *versions);
                forecasts.push(Forecast { flow: *id, version: *versions, end: now + flow.left / rate });
            }
        }
        forecasts
    }
}
