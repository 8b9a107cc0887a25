# SPDX-License-Identifier: BSD-3-Clause
"""A process that has a disk open, as a server has it, and answers calls with what it is told to.

    pool_liar.py -r SOCKET DISK ANSWERS

ANSWERS is a file of JSON: by method, the result; or, below "error", an error. What is not there is not answered: the
connection is closed.
"""
import fcntl
import json
import socket
import struct
import sys

F_OFD_SETLK = 37


def serve(path, answers):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        with connection:
            decoder, text = json.JSONDecoder(), ""
            while data := connection.recv(1 << 16):
                text += data.decode()
                try:
                    request, end = decoder.raw_decode(text)
                except ValueError:
                    continue
                text = text[end:]
                if request["method"] not in answers:
                    break
                answer = answers[request["method"]]
                told = answer if isinstance(answer, dict) and "error" in answer else {"result": answer}
                connection.sendall(json.dumps({"jsonrpc": "2.0", "id": request["id"]} | told).encode() + b"\n")


def main():
    _, _, path, disk, answers = sys.argv
    with open(disk, "r+b") as file, open(answers, encoding="utf-8") as text:
        fcntl.fcntl(file, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        serve(path, json.load(text))


main()
