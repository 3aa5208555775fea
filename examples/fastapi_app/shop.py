"""A shop's API with a login of its own, as it was before the gateway."""

import os
import time
from typing import Annotated

import jwt
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

SECRET = os.environ.get("SHOP_SECRET", "only-for-trying-this-out-0123456789")
USERS = {"ada": "lovelace", "grace": "hopper"}
FAQ = """\
Parcels arrive within three days. Returns are free for a month. We take cards and bank transfers.
The shop in Main Street is open from nine to six. Engines have a warranty of five years.
Gift wrapping costs two dollars. Broken engines are repaired in our workshop."""
PRODUCTS = {"difference engine": 17_000, "slide rule": 12}

app = FastAPI(title="A shop")


@app.post("/login")
def login(name: str, password: str) -> dict[str, str]:
    if USERS.get(name) != password:
        raise HTTPException(401, "Wrong name or password.")
    claims = {"sub": name, "aud": "shop", "exp": int(time.time()) + 3600}
    return {"token": jwt.encode(claims, SECRET, "HS256")}


def current_user(
    credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())],
) -> str:
    try:
        claims = jwt.decode(credentials.credentials, SECRET, ["HS256"], audience="shop")
    except jwt.PyJWTError:
        raise HTTPException(401, "Log in first.") from None
    return str(claims["sub"])


User = Annotated[str, Depends(current_user)]


@app.get("/orders")
def orders(user: User) -> list[dict[str, str]]:
    return [{"of": user, "item": "A difference engine"}]


@app.put("/products/{name}")
def change(user: User, name: str, price: int) -> dict[str, int]:
    PRODUCTS[name] = price
    return {name: price}
