"""Why a broker is away or refuses, in words that say what to do. MQTT's reason codes: MQTT 5.0, section 2.4."""

from __future__ import annotations

import socket
import ssl

from agent.delivery.mqtt.settings import Settings

NO_SUBSCRIBERS = 16  #: accepted, and nobody was there to hear it
NOT_AUTHORIZED = 135
TAKEN_OVER = 142
PACKET_TOO_LARGE = 149
#: PUBACK codes that will be the same for this message however often it is sent: too large, payload format invalid.
NEVER = {PACKET_TOO_LARGE: "the broker takes no message as large as this", 153: "the broker calls the payload invalid"}

_CONNACK = {
    1: "does not speak MQTT {protocol}; set {at}.protocol to what it speaks",
    132: "does not speak MQTT {protocol}; set {at}.protocol to what it speaks",
    133: "does not take the client id {client!r}; set {at}.client_id",
    4: "refuses user {user!r} or its password; check {at}.username and the password",
    134: "refuses user {user!r} or its password; check {at}.username and the password",
    5: "does not let user {user!r} in; check {at}.username, the password and the broker's access list",
    NOT_AUTHORIZED: "does not let user {user!r} in; check {at}.username, the password and the broker's access list",
    136: "says it is unavailable",
    137: "says it is busy",
    138: "has banned this client; ask its administrator",
    140: "asks for another way to log in than a password",
    144: "refuses the topic of the last will; check {at}.topic",
    PACKET_TOO_LARGE: "takes no packet as large as the last will",
    151: "says a quota is used up",
    154: "does not keep retained messages, which the status needs",
    155: "does not offer QoS 1",
}
_TLS = {
    "WRONG_VERSION_NUMBER": "does not speak TLS on this port; check {at}.port, or remove {at}.tls",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "wants a client certificate; set {at}.tls.cert and {at}.tls.key",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "wants a client certificate or other ciphers; set {at}.tls.cert and {at}.tls.key",
    "TLSV1_ALERT_UNKNOWN_CA": "does not trust this station's certificate; check {at}.tls.cert",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "says this station's certificate has expired; renew {at}.tls.cert",
    "SSLV3_ALERT_BAD_CERTIFICATE": "refuses this station's certificate; check {at}.tls.cert",
}


def of_connack(code: int, name: str, settings: Settings) -> str:
    """Why the broker refused CONNECT."""
    user, client, at = settings.username or "(none)", settings.client_id, settings.section
    known = _CONNACK.get(code)
    if known is None:
        return f"refuses the connection: {name} ({code})"
    return known.format(user=user, client=client, protocol=settings.protocol, at=at)


def denied(settings: Settings, what: str) -> str:
    """The broker let us in and does not let us do this: its access list."""
    user = settings.username or "(none)"
    return f"broker {settings.address} does not let user {user} {what}; allow it in the broker's access list"


def of_exception(error: Exception, timeout_s: float, at: str) -> str:
    """Why there is no connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        trouble = f"has a certificate that is not trusted: {error.verify_message}"
        return f"{trouble}; check {at}.tls.ca, {at}.host and the clock"
    if isinstance(error, ssl.SSLError):
        known = _TLS.get(error.reason or "")
        return known.format(at=at) if known else f"fails the TLS handshake: {error.reason or error}"
    if isinstance(error, socket.gaierror):
        return f"is a name that nobody knows; check {at}.host and the name server"
    if isinstance(error, ConnectionRefusedError):
        return f"has nothing listening there; is the broker running, is {at}.port right?"
    if isinstance(error, ConnectionResetError):
        return f"broke off the TLS handshake; does it speak TLS on this port? check {at}.port, or remove {at}.tls"
    if isinstance(error, TimeoutError):
        return f"gave no answer within {timeout_s:g} s; check network and firewall"
    if isinstance(error, OSError):
        return f"cannot be reached: {error.strerror or error}"
    return f"cannot be reached: {error}"
