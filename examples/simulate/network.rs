//! Links and what flows over them. A flow gets the least of an equal share of its sender's uplink and an equal share
//! of its receiver's downlink, which is what TCP comes to over links like these.

use shoal::content::ChunkIndex;

/// A chunk on its way.
pub struct Flow {
    pub from: usize,
    pub to: usize,
    pub index: ChunkIndex,
    left: f64,
    whole: f64,
    rate: f64,
    since: f64,
    /// How often its rate has changed: an end that was foretold before does not come.
    pub version: u32,
}

/// Whose bytes have moved.
pub struct Moved {
    pub from: usize,
    pub to: usize,
    pub index: ChunkIndex,
    pub bytes: f64,
}

/// One peer's link.
#[derive(Clone)]
pub struct Link {
    pub up: f64,
    pub down: f64,
    going: Vec<usize>,
    coming: Vec<usize>,
}

impl Link {
    /// A link of so many bytes a second.
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

    /// Starts a flow; `changed` is told of every flow that ends at another time from now on.
    pub fn start(
        &mut self,
        (from, to, index): (usize, usize, ChunkIndex),
        bytes: f64,
        now: f64,
        moved: &mut Vec<Moved>,
        changed: &mut Vec<(usize, u32, f64)>,
    ) {
        let flow = Flow { from, to, index, left: bytes, whole: bytes, rate: 0.0, since: now, version: 0 };
        let id = match self.free.pop() {
            Some(id) => {
                self.flows[id] = Some(flow);
                id
            }
            None => {
                self.flows.push(Some(flow));
                self.flows.len() - 1
            }
        };
        self.links[from].going.push(id);
        self.links[to].coming.push(id);
        self.share(from, to, now, moved, changed);
    }

    /// Whether what was foretold of a flow still holds.
    pub fn current(&self, id: usize, version: u32) -> bool {
        self.flows[id].as_ref().is_some_and(|flow| flow.version == version)
    }

    /// Whether a flow is through.
    pub fn through(&self, id: usize, now: f64) -> bool {
        self.flows[id].as_ref().is_some_and(|flow| flow.left - (now - flow.since) * flow.rate < 1.0)
    }

    /// What a flow has moved since it was looked at last.
    pub fn look(&mut self, id: usize, now: f64) -> Option<Moved> {
        let flow = self.flows[id].as_mut()?;
        let bytes = (now - flow.since) * flow.rate;
        flow.left = (flow.left - bytes).max(0.0);
        flow.since = now;
        Some(Moved { from: flow.from, to: flow.to, index: flow.index, bytes })
    }

    /// Ends a flow.
    pub fn end(
        &mut self,
        id: usize,
        now: f64,
        moved: &mut Vec<Moved>,
        changed: &mut Vec<(usize, u32, f64)>,
    ) -> Option<Flow> {
        let flow = self.flows[id].take()?;
        moved.push(Moved {
            from: flow.from,
            to: flow.to,
            index: flow.index,
            bytes: (now - flow.since) * flow.rate,
        });
        self.free.push(id);
        self.links[flow.from].going.retain(|other| *other != id);
        self.links[flow.to].coming.retain(|other| *other != id);
        self.share(flow.from, flow.to, now, moved, changed);
        Some(flow)
    }

    pub fn counts(&self, peer: usize) -> (usize, usize) {
        (self.links[peer].going.len(), self.links[peer].coming.len())
    }
    /// The flows from and to a peer.
    pub fn of(&self, peer: usize) -> Vec<usize> {
        self.links[peer].going.iter().chain(&self.links[peer].coming).copied().collect()
    }

    fn share(
        &mut self,
        from: usize,
        to: usize,
        now: f64,
        moved: &mut Vec<Moved>,
        changed: &mut Vec<(usize, u32, f64)>,
    ) {
        let Self { links, flows, versions, .. } = self;
        for id in links[from].going.iter().chain(&links[to].coming) {
            let Some(flow) = flows[*id].as_mut() else { continue };
            let (sender, receiver) = (&links[flow.from], &links[flow.to]);
            let rate =
                (sender.up / sender.going.len() as f64).min(receiver.down / receiver.coming.len() as f64);
            if rate == flow.rate {
                continue;
            }
            let bytes = (now - flow.since) * flow.rate;
            flow.left = (flow.left - bytes).max(0.0);
            if bytes > 0.0 {
                moved.push(Moved { from: flow.from, to: flow.to, index: flow.index, bytes });
            }
            *versions = versions.wrapping_add(1);
            (flow.since, flow.rate, flow.version) = (now, rate, *versions);
            for quarter in 1..1 {
                let before = flow.left - flow.whole * f64::from(quarter) / 16.0;
                if before > 0.0 {
                    changed.push((*id, flow.version, now + before / rate));
                }
            }
            changed.push((*id, flow.version, now + flow.left / rate));
        }
    }
}
