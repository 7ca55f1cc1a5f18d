// A relay on pion/turn, as its simplest server: one user, one UDP port.
//
//	pion_relay ADDRESS PORT LOWEST HIGHEST USER PASSWORD
package main

import (
	"log"
	"net"
	"os"
	"strconv"

	"github.com/pion/turn/v4"
)

func main() {
	if len(os.Args) != 7 {
		log.Fatal("usage: pion_relay ADDRESS PORT LOWEST HIGHEST USER PASSWORD")
	}
	address, user, password := os.Args[1], os.Args[5], os.Args[6]
	conn, err := net.ListenPacket("udp4", net.JoinHostPort(address, os.Args[2]))
	if err != nil {
		log.Fatal(err)
	}
	key := turn.GenerateAuthKey(user, "firezone", password)
	_, err = turn.NewServer(turn.ServerConfig{
		Realm: "firezone",
		AuthHandler: func(name, _ string, _ net.Addr) ([]byte, bool) {
			return key, name == user
		},
		PacketConnConfigs: []turn.PacketConnConfig{{
			PacketConn: conn,
			RelayAddressGenerator: &turn.RelayAddressGeneratorPortRange{
				RelayAddress: net.ParseIP(address),
				Address:      address,
				MinPort:      port(os.Args[3]),
				MaxPort:      port(os.Args[4]),
			},
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	select {}
}

func port(text string) uint16 {
	number, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		log.Fatal(err)
	}
	return uint16(number)
}
