"""Five members of a chat over WebSockets; each says something in turn, and all must hear it, in one order."""
import asyncio
import time

import websockets

from witness import Witness

witness = Witness()


async def main():
    witness.connect(8080).close()
    host = f"[{witness.address}]" if ":" in witness.address else witness.address
    members = [await websockets.connect(f"ws://{host}:8080", ping_interval=None, open_timeout=30) for _ in range(5)]
    try:
        at = 0
        while not witness.stopped():
            await members[at % 5].send(f"word {at}")
            for member in members:
                heard = await asyncio.wait_for(member.recv(), 30)
                witness.want(heard == f"{at + 1} word {at}", f"heard {heard!r} where {at} is due")
            witness.done()
            if at == 0:
                print("ready", flush=True)
            at += 1
            await asyncio.sleep(0.002)
    except Exception as error:
        witness.want(False, f"{type(error).__name__}: {error}")


asyncio.run(main())
witness.report()
