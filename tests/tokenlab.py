"""An OAuth issuer for tests: keys, their JWK set, tokens signed as asked."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


class Issuer:
    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())

    def keys(self, **more: object) -> list[dict[str, object]]:
        numbers, point = self.rsa.public_key().public_numbers(), self.ec.public_key().public_numbers()
        return [
            {"kty": "RSA", "kid": "r", "n": b64(numbers.n.to_bytes(256)), "e": b64(numbers.e.to_bytes(3)), **more},
            {"kty": "EC", "kid": "e", "crv": "P-256", "x": b64(point.x.to_bytes(32)), "y": b64(point.y.to_bytes(32)), **more},
        ]  # fmt: skip

    def jwks(self, **more: object) -> bytes:
        return json.dumps({"keys": self.keys(**more)}).encode()

    def token(self, claims: dict[str, object], alg: str = "RS256", /, **header: object) -> str:
        head = {"alg": alg, "kid": "r" if alg == "RS256" else "e", "typ": "at+jwt", **header}
        data = f"{b64(json.dumps(head).encode())}.{b64(json.dumps(claims).encode())}"
        if alg == "ES256":
            r, s = decode_dss_signature(self.ec.sign(data.encode(), ec.ECDSA(hashes.SHA256())))
            return f"{data}.{b64(r.to_bytes(32) + s.to_bytes(32))}"
        return f"{data}.{b64(self.rsa.sign(data.encode(), padding.PKCS1v15(), hashes.SHA256()))}"
