"""Attributes for messages that kernels read: such as clients send, others, and wrong ones."""

from __future__ import annotations

from hypothesis import strategies as st

from firezone import stun
from firezone.stun.attributes import KNOWN

values: dict[int, st.SearchStrategy[bytes]] = {
    stun.SOFTWARE.code: st.text(max_size=130).map(str.encode),
    stun.REQUESTED_TRANSPORT.code: st.just(b"\x11\0\0\0"),
    stun.LIFETIME.code: st.binary(min_size=4, max_size=4),
    stun.REQUESTED_ADDRESS_FAMILY.code: st.sampled_from([b"\1\0\0\0", b"\2\0\0\0", b"\3\0\0\0"]),
    stun.ADDITIONAL_ADDRESS_FAMILY.code: st.sampled_from([b"\2\0\0\0", b"\2", b"\0\0\0\0"]),
    stun.EVEN_PORT.code: st.binary(max_size=2),
    stun.DONT_FRAGMENT.code: st.binary(max_size=1),
    stun.USERNAME.code: st.sampled_from([b"4000000000:salt", b"anna", b"\xff"]),
    stun.NONCE.code: st.just(b"A" * 32),
    0xC057: st.binary(max_size=8),
}
codes = st.one_of(
    st.sampled_from(sorted(values)),
    st.sampled_from(sorted(KNOWN)),
    st.integers(0, 0xFFFF),
)


@st.composite
def attributes(draw: st.DrawFn) -> bytes:
    code = draw(codes)
    value = draw(values.get(code, st.binary(max_size=24)) | st.binary(max_size=24))
    padding = draw(st.sampled_from([b"\0", b"\xff"])) * (-len(value) % 4)
    return code.to_bytes(2) + len(value).to_bytes(2) + value + padding
