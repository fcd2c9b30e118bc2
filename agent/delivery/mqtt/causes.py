"""Why a broker is away or refuses, in words that say what to do. MQTT's reason codes: MQTT 5.0, section 2.4."""

from __future__ import annotations

import socket
import ssl

NOT_AUTHORIZED = 135
TAKEN_OVER = 142
PACKET_TOO_LARGE = 149
#: PUBACK codes that will be the same for this message however often it is sent: too large, payload format invalid.
NEVER = {PACKET_TOO_LARGE: "the broker takes no message as large as this", 153: "the broker calls the payload invalid"}

_CONNACK = {
    1: "does not speak MQTT 5",
    132: "does not speak MQTT 5",
    133: "does not take the client id {client!r}; set mqtt.client_id",
    4: "refuses user {user!r} or its password; check mqtt.username and the password",
    134: "refuses user {user!r} or its password; check mqtt.username and the password",
    5: "does not let user {user!r} in; check mqtt.username, the password and the broker's access list",
    NOT_AUTHORIZED: "does not let user {user!r} in; check mqtt.username, the password and the broker's access list",
    136: "says it is unavailable",
    137: "says it is busy",
    138: "has banned this client; ask its administrator",
    140: "asks for another way to log in than a password",
    144: "refuses the topic of the last will; check mqtt.topic",
    PACKET_TOO_LARGE: "takes no packet as large as the last will",
    151: "says a quota is used up",
    154: "does not keep retained messages, which the status needs",
    155: "does not offer QoS 1",
}
_TLS = {
    "WRONG_VERSION_NUMBER": "does not speak TLS on this port; check mqtt.port, or remove mqtt.tls",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "wants a client certificate; set mqtt.tls.cert and mqtt.tls.key",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "wants a client certificate or other ciphers; set mqtt.tls.cert and mqtt.tls.key",
    "TLSV1_ALERT_UNKNOWN_CA": "does not trust this station's certificate; check mqtt.tls.cert",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "says this station's certificate has expired; renew mqtt.tls.cert",
    "SSLV3_ALERT_BAD_CERTIFICATE": "refuses this station's certificate; check mqtt.tls.cert",
}


def of_connack(code: int, name: str, user: str | None, client: str) -> str:
    """Why the broker refused CONNECT."""
    known = _CONNACK.get(code)
    return known.format(user=user or "(none)", client=client) if known else f"refuses the connection: {name} ({code})"


def of_exception(error: Exception, timeout_s: float) -> str:
    """Why there is no connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"has a certificate that is not trusted: {error.verify_message}; check mqtt.tls.ca, mqtt.host and the clock"
        )
    if isinstance(error, ssl.SSLError):
        return _TLS.get(error.reason or "", f"fails the TLS handshake: {error.reason or error}")
    if isinstance(error, socket.gaierror):
        return "is a name that nobody knows; check mqtt.host and the name server"
    if isinstance(error, ConnectionRefusedError):
        return "has nothing listening there; is the broker running, is mqtt.port right?"
    if isinstance(error, ConnectionResetError):
        return "broke off the TLS handshake; does it speak TLS on this port? check mqtt.port, or remove mqtt.tls"
    if isinstance(error, TimeoutError):
        return f"gave no answer within {timeout_s:g} s; check network and firewall"
    if isinstance(error, OSError):
        return f"cannot be reached: {error.strerror or error}"
    return f"cannot be reached: {error}"
