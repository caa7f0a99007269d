use super::*;
use crate::cluster::slot::Slot;
use crate::net::budget::Account;
use crate::net::buffers::Buffers;
use crate::resp::Resp;
use crate::upstream::connection::open::ConnectionKey;
use crate::upstream::tests::parts;

fn redirected(client: &Rc<Replies>) -> Rc<Replies> {
    client.expect();
    client.redirected()
}

/// Runs a test with a client and two lanes.
async fn with_lanes(test: impl FnOnce(Rc<Replies>, [Rc<Lane>; 2])) {
    let in_local_set = async {
        let buffers = Rc::new(Buffers::alone(1 << 24));
        let (parts, _topology) = parts(buffers.clone());
        let key = ConnectionKey::new(parts.dialing.identities.own().clone(), 0, Resp::V2);
        let client = Replies::new(buffers.clone(), Account::new(buffers.share()), 1 << 20);
        test(client.clone(), [(); 2].map(|()| Lane::new(key.clone(), false)));
        client.close();
    };
    tokio::task::LocalSet::new().run_until(in_local_set).await;
}

#[tokio::test]
async fn a_command_follows_those_of_its_series_on_their_lane_only() {
    with_lanes(|client, [here, there]| {
        let series = (client.owner(), Slot::new(7));
        let mut under_way = UnderWay::default();
        assert!(!under_way.is_elsewhere(series, &there));

        let (first, second) = (redirected(&client), redirected(&client));
        under_way.add(series, &first, &here);
        under_way.add(series, &second, &here);
        assert!(under_way.is_elsewhere(series, &there) && !under_way.is_elsewhere(series, &here));
        assert!(!under_way.is_elsewhere((client.owner(), Slot::new(8)), &there), "slots have no order");
        // The node of the lane has not run the first one either.
        under_way.remove(series, &first);
        assert!(under_way.is_elsewhere(series, &there));
        second.deliver(b"+\r\n", 1, 3);
        assert!(!under_way.is_elsewhere(series, &there));
    })
    .await;
}

#[tokio::test]
async fn answered_commands_are_forgotten() {
    with_lanes(|client, [lane, _]| {
        let mut under_way = UnderWay::default();
        for slot in 0..10_000 {
            let replies = redirected(&client);
            under_way.add((client.owner(), Slot::new(slot)), &replies, &lane);
            replies.deliver(b"+\r\n", 1, 3);
            assert!(under_way.series.len() <= SWEPT_FROM);
        }
    })
    .await;
}
