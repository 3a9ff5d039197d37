"""A chat over WebSockets: what one says all hear, with a number that rises."""
import asyncio
import signal

import websockets

members, number = set(), 0


async def serve(member):
    global number
    members.add(member)
    try:
        async for text in member:
            number += 1
            websockets.broadcast(members, f"{number} {text}")
    finally:
        members.discard(member)


async def main():
    async with websockets.serve(serve, "", 8080, ping_interval=None):
        print("ready", flush=True)
        stop = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set_result, None)
        await stop


asyncio.run(main())
