use super::*;
use crate::net::budget::Share;

pub(super) fn replies(limit: usize) -> (Rc<Share>, Rc<Replies>) {
    let buffers = Rc::new(Buffers::alone(1 << 20));
    let share = buffers.share().clone();
    (share.clone(), Replies::new(buffers, Account::new(&share), limit))
}

fn shown(replies: &Replies) -> String {
    let mut text = String::new();
    replies.bytes.borrow().pieces().for_each(|bytes| text.push_str(&String::from_utf8_lossy(bytes)));
    text
}

#[test]
fn a_message_never_stands_inside_a_reply() {
    let (share, replies) = replies(1 << 20);
    replies.deliver_part(b"$4\r\nha");
    replies.publish(b'>', b"1\r\n+m\r\n");
    assert_eq!(shown(&replies), "$4\r\nha");
    let allocated = replies.bytes.borrow().capacity() + replies.messages.borrow().capacity();
    assert_eq!(share.bytes(), allocated, "what waits is counted");
    replies.deliver(b"lf\r\n", 1, 4);
    assert_eq!(shown(&replies), "$4\r\nhalf\r\n>1\r\n+m\r\n");
    replies.begin_pieces();
    replies.answer(|out| out.extend_from_slice(b"+pie"));
    replies.publish(b'>', b"1\r\n+n\r\n");
    replies.answer(|out| out.extend_from_slice(b"ces\r\n"));
    replies.end_pieces();
    assert!(shown(&replies).ends_with("+pieces\r\n>1\r\n+n\r\n"));
    replies.close();
    assert_eq!(share.bytes(), 0);
}

#[test]
fn messages_that_wait_are_bounded() {
    let (share, replies) = replies(100);
    replies.begin_pieces();
    for _ in 0..30 {
        replies.publish(b'*', b"1\r\n+abc\r\n");
    }
    assert_eq!(replies.client_state(), ClientState::Overflowed);
    assert!(share.bytes() <= 200, "{} bytes", share.bytes());
}

#[tokio::test]
async fn one_poll_writes_a_bounded_number_of_bytes() {
    let (share, replies) = replies(1 << 30);
    let long = vec![b'x'; 3 * BYTES_PER_POLL + 7];
    long.chunks(1000).for_each(|chunk| replies.answer(|out| out.extend_from_slice(chunk)));
    // A stream that takes everything at once.
    let mut taken = Vec::new();
    let mut polls = 0;
    std::future::poll_fn(|cx| {
        let before = taken.len();
        let written = replies.poll_write_to(cx, &mut taken);
        assert!(taken.len() - before <= BYTES_PER_POLL);
        polls += 1;
        written
    })
    .await
    .unwrap();
    assert_eq!((taken.len(), polls), (long.len(), 4));
    assert_eq!(replies.progress(), long.len() as u64);
    replies.close();
    assert_eq!(share.bytes(), 0);
}
